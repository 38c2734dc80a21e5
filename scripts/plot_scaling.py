"""Plot quality against the compute of training, from the runs and reports of scripts/scaling.sh; print a table.

python -m scripts.plot_scaling --folder runs/scaling --output runs/scaling/scaling.png
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamrun import cli
from dreamrun.data.atomic import check_output
from dreamrun.evaluation.report_blocks import format_estimate, format_percent
from dreamrun.model import ModelConfig
from dreamrun.training.config import TRAIN_CONFIG_FILE
from dreamrun.training.step import training_flop

FRAME = 8  # at which quality is measured
PSNR, CONTROLLABILITY = f"PSNR at frame {FRAME}, dB", f"controllability at frame {FRAME}"


@dataclass(frozen=True)
class PlotScalingConfig:
    """Where the runs are, and which file to write."""

    folder: Path  # its folders are runs, with a folder report-STEP for each checkpoint that was evaluated
    output: Path = Path("scaling.png")  # the plot to write


def main(config: PlotScalingConfig) -> None:
    """Draw the plot, and print the points as a table in Markdown."""
    check_output(config.output)
    sizes = {run.name: read_points(run) for run in sorted(config.folder.glob("*")) if any(run.glob("report-*"))}
    if not sizes:
        raise ValueError(f"{config.folder} holds no runs with reports: scripts/scaling.sh makes them")
    from dreamrun.training.plots import plot_scaling  # imported here: matplotlib takes a second

    plot_scaling(config.output, dict(sorted(sizes.items(), key=lambda item: item[1][0]["flop"])))
    print(f"| size | FLOP of training | {PSNR} | {CONTROLLABILITY} |\n|---|---|---|---|")
    for name, points in sizes.items():
        for point in points:
            figures = format_estimate(point[PSNR], 1), format_percent(point[CONTROLLABILITY])
            print(f"| {name} | {point['flop']:.1e} | {figures[0]} | {figures[1]} |")
    print(f"wrote {config.output}")


def read_points(run: Path) -> list[dict[str, Any]]:
    """FLOP of training, and two metrics, for each report of a run.

    Raises:
        ValueError: a file is damaged, or a report lacks a metric.
    """
    points = []
    for path in sorted(run.glob("report-*/report.json")):
        try:
            options = json.loads((run / TRAIN_CONFIG_FILE).read_text())
            report = json.loads(path.read_text())
            model_config = ModelConfig.from_dict(report["checkpoint"]["config"])
            controllability = next(
                row["controllability"] for row in report["counterfactuals"]["by_frame"] if row["frame"] == FRAME
            )
            num_steps = int(path.parent.name.removeprefix("report-"))
            flop = num_steps * training_flop(model_config, options)
            psnr = report["fidelity"]["dream"]["psnr"][FRAME - 1]
        except (KeyError, IndexError, TypeError, StopIteration) as error:
            raise ValueError(f"{path} is not a report with frame {FRAME}: {error!r}") from None
        points.append({"flop": flop, PSNR: psnr, CONTROLLABILITY: controllability})
    return sorted(points, key=lambda point: point["flop"])


if __name__ == "__main__":
    cli.run(main, PlotScalingConfig, __doc__)
