"""Plot quality against the compute of training, from the runs and reports of scripts/scaling.sh; print a table.

python -m scripts.plot_scaling --folder runs/scaling --output runs/scaling/scaling.png
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamrun import cli
from dreamrun.data.atomic import check_output
from dreamrun.data.metrics_log import TRAIN_CONFIG_FILE
from dreamrun.evaluation.section import format_estimate, format_percent
from dreamrun.model import ModelConfig
from dreamrun.training.train_config import NOISE_LEVELS

FRAME = 8  # at which quality is measured
PSNR, CONTROLLABILITY = f"PSNR at frame {FRAME}, dB", f"controllability at frame {FRAME}"


@dataclass(frozen=True)
class PlotScalingConfig:
    """Where the runs are, and which file to write."""

    folder: Path  # its folders are runs, with a folder report-STEP for each checkpoint that was evaluated
    output: Path = Path("scaling.png")  # the plot to write


def main(config: PlotScalingConfig) -> None:
    """Draw the plot, and print the points as a table in Markdown."""
    check_output(config.output, suffix=".png")
    sizes = {run.name: read_points(run) for run in sorted(config.folder.glob("*")) if any(run.glob("report-*"))}
    if not sizes:
        raise ValueError(f"{config.folder} holds no runs with reports: scripts/scaling.sh makes them")
    plot_scaling(config.output, dict(sorted(sizes.items(), key=lambda item: item[1][0]["flop"])))
    print(f"| size | FLOP of training | {PSNR} | {CONTROLLABILITY} |\n|---|---|---|---|")
    for name, points in sizes.items():
        for point in points:
            figures = format_estimate(point[PSNR], 1), format_percent(point[CONTROLLABILITY])
            print(f"| {name} | {point['flop']:.1e} | {figures[0]} | {figures[1]} |")
    print(f"wrote {config.output}")


def plot_scaling(path: Path, sizes: dict[str, list[dict[str, Any]]]) -> None:
    """Draw quality against the compute of training as a PNG: a panel for each metric, a line for each size.

    A point has `flop` and, for each metric, an estimate with value, low and high.
    """
    # Imported here: matplotlib takes a second.
    from matplotlib.figure import Figure

    from dreamrun.data.plots import LINE_COLORS, column, save_png

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    metrics = [name for name in next(iter(sizes.values()))[0] if name != "flop"]
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for (name, points), color in zip(sizes.items(), LINE_COLORS, strict=False):
            flop, estimates = [point["flop"] for point in points], [point[metric] for point in points]
            value, low, high = (column(estimates, key) for key in ("value", "low", "high"))
            axes.plot(flop, value, color=color, label=name, marker="o", ms=4)
            axes.fill_between(flop, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="FLOP of training", title=metric, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    save_png(figure, path, dpi=120)


def training_flop(config: ModelConfig, options: dict[str, Any]) -> float:
    """FLOP of one optimizer step without scheduled sampling, which takes more. A backward pass is two forward ones."""
    frames = options["batch_size"] * (options["clip_frames"] or config.window_frames)
    teacher_forcing, _ = NOISE_LEVELS[options["noise_levels"]]
    copies = 2 if teacher_forcing else 1  # a clean and a noisy copy of each clip
    return 3 * config.flops_per_pass * frames * (copies + (1 - copies) * options["fill_share"])


def read_points(run: Path) -> list[dict[str, Any]]:
    """FLOP of training, and two metrics, for each report of a run."""
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
    cli.run(main, __doc__)
