"""Compare how long rollouts drift: of several checkpoints, numbers of denoising steps, guidance and context noise.

python -m scripts.compare_drift --checkpoints runs/a/checkpoints/latest runs/b/checkpoints/latest --data datasets/pong
python -m scripts.compare_drift --checkpoints checkpoints/pong-pico --num-steps 1 2 4 --context-noise 0.02 0.1
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from dreamrun import cli
from dreamrun.data.atomic import check_output, write_text
from dreamrun.evaluation.context import SIZES
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.evaluator import make_context, measure
from dreamrun.evaluation.report import markdown_table
from dreamrun.evaluation.section import Table, format_percent
from dreamrun.evaluation.sections.drift import DRIFT
from dreamrun.evaluation.sections.key_objects import OBJECTS
from dreamrun.games.ranges import Positive, check_ranges
from dreamrun.model.diffusion import CONTEXT_NOISE


@dataclass(frozen=True)
class CompareDriftConfig:
    """What is compared, every combination of it, and how much is dreamt."""

    checkpoints: tuple[str, ...]  # folders of checkpoints, or "user/name" on the Hub
    data: Path | None = None  # data set folder with held-out play; None: collect play of the checkpoint's game
    num_steps: tuple[int, ...] = ()  # denoising steps per frame; none: the checkpoint's default
    guidance: tuple[float, ...] = ()  # scales of guidance; none: the checkpoint's default
    context_noise: tuple[float, ...] = (CONTEXT_NOISE,)  # noise levels of the context frames
    num_rollouts: Positive = 24  # long rollouts
    num_frames: Positive = 900  # of each
    batch_size: Positive = 16  # rollouts generated in parallel
    seed: int = 0  # of the clips, the actions and the noise
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: the GPU if there is one
    output: Path = Path("drift")  # folder for drift.md and drift.json

    def __post_init__(self):
        for name in ("checkpoints", "context_noise"):
            if not getattr(self, name):
                raise ValueError(f"{name} names nothing to compare")
        check_ranges(self)

    def evaluations(self) -> Iterator[EvaluateConfig]:
        """The evaluation that each row of the table is a part of, so that its rollouts are those of that report."""
        combinations = product(
            self.checkpoints, self.num_steps or (None,), self.guidance or (None,), self.context_noise
        )
        for number, (checkpoint, num_steps, guidance, context_noise) in enumerate(combinations, start=1):
            yield EvaluateConfig(
                checkpoint=checkpoint,
                data=self.data,
                output=self.output / f"row-{number}",
                num_clips=max(SIZES["num_clips"][0], self.num_rollouts),
                num_long_rollouts=self.num_rollouts,
                sizes=(f"drift_frames={self.num_frames}",),
                num_steps=num_steps,
                guidance=guidance,
                context_noise=context_noise,
                seed=self.seed,
                batch_size=self.batch_size,
                device=self.device,
            )


def main(config: CompareDriftConfig) -> None:
    """Measure row after row, print the table, and write it. Finished rows are cached, as those of an evaluation are."""
    check_output(config.output, is_folder=True, files=("drift.json", "drift.md"))
    evaluations = list(config.evaluations())  # which checks all options before the first row is measured
    results = [measure_row(evaluation) for evaluation in evaluations]
    table = markdown_table(make_table(results))
    print(table)
    for name, text in (("drift.json", json.dumps(results, indent=2)), ("drift.md", table)):
        write_text(config.output / name, text + "\n")
    print(f"wrote {config.output}/drift.md and drift.json")


def measure_row(config: EvaluateConfig) -> dict[str, Any]:
    """Drift and key objects of long rollouts, and the settings of the rollouts."""
    context = make_context(config)
    print(f"{config.checkpoint}: {context.settings}")
    result = {
        "checkpoint": config.checkpoint,
        "weights": context.weights_sha256,
        **{name: getattr(context.settings, name) for name in ("num_steps", "guidance", "context_noise")},
        "drift": context.results.value("drift", lambda: DRIFT.measure(context)),
        "objects": measure(OBJECTS, context),  # few games have any
    }
    context.results.drop_arrays()
    return result


def make_table(results: list[dict[str, Any]]) -> Table:
    """One row for each combination; a figure that could not be measured is a dash."""
    head = ["checkpoint", "steps", "guidance", "context noise", "collapsed after a quarter", "after half", "at the end"]
    head += ["frozen", "flat", "blown out", "object alive", "n rollouts"]
    return Table(head, [_row(result) for result in results])


def _row(result: dict[str, Any]) -> list[str]:
    drift = result["drift"]
    by_window = drift["collapsed_by_window"]
    shown = [by_window[len(by_window) // parts - 1] for parts in (4, 2, 1)]
    shown += [*drift["collapsed_how"].values(), result["objects"].get("alive", {}).get("dream")]
    figures = [format_percent(figure) for figure in shown]
    settings = [result["checkpoint"], *(f"{result[name]:g}" for name in ("num_steps", "guidance", "context_noise"))]
    return [*settings, *figures, str(drift["collapsed"]["n"])]


if __name__ == "__main__":
    cli.run(main, __doc__)
