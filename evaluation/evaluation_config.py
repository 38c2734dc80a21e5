"""The options of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamrun.games.ranges import Positive
from dreamrun.model.options import CheckpointOptions, SamplerSettings

_SIZE_OPTIONS = ("num_clips", "num_frames", "num_states", "num_long_rollouts")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplerSettings, CheckpointOptions):
    """Evaluate a checkpoint against the real game, or compare two reports."""

    checkpoint: str = ""  # required, except with compare: folder of a checkpoint, or "user/name" on the Hub
    data: Path | None = None  # data set folder with held-out play; None: collect play of the checkpoint's game
    output: Path = Path("report")  # folder for report.html, report.json and report.md
    split: Literal["test", "val"] | None = None  # held-out split; None: test, or val if there is no test split
    quick: bool = False  # measure less: a first impression in two minutes on two cores
    num_clips: Positive | None = None  # held-out clips; None: 64, or 12 with quick
    num_frames: Positive | None = None  # generated frames per clip; None: 64, or 16 with quick
    num_states: Positive | None = None  # game states for the controllability; None: 48, or 8 with quick
    num_long_rollouts: Positive | None = None  # long rollouts of 900 frames (90 with quick); None: 32, or 4 with quick
    # More sizes, named as in the settings of report.json: drift_frames=90 sweep_steps=1,4
    sizes: tuple[str, ...] = ()
    num_prompt_frames: Positive = 4  # real frames that a rollout starts from
    seed: int = 0  # seed of the clips, the game states and the noise
    batch_size: Positive = 16  # rollouts generated in parallel
    # Python module to import, which registers the gym: game of the checkpoint or the data, or WAD of its doom: game.
    env_module: str | None = None
    onnx: Path | None = None  # an export of the checkpoint by scripts.export_onnx, to measure in its place
    compare: tuple[Path, Path] | None = None  # two report.json: list the metrics whose 95 % intervals do not overlap

    def __post_init__(self):
        super().__post_init__()
        if self.compare is None and not self.checkpoint:
            raise ValueError("give --checkpoint DIR, or two reports to --compare")
        if self.onnx is not None and self.guidance not in (None, 1):
            raise ValueError(f"guidance is {self.guidance}: an exported network has none")

    def choose_sizes(self, table: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """The full or the quick size of each name, changed by the options that are set."""
        sizes = {name: pair[self.quick] for name, pair in table.items()}
        for text in self.sizes:
            name, _, value = text.partition("=")
            if name not in sizes:
                raise ValueError(f"sizes has {text!r}: the names are {', '.join(sizes)}")
            is_list, (_, default) = isinstance(sizes[name], tuple), table[name]
            kind = type(default[0] if is_list else default)
            try:
                numbers = tuple(kind(number) for number in value.split(","))
            except ValueError:
                numbers = ()
            if not numbers or (not is_list and (len(numbers) > 1 or numbers[0] < 1)):
                raise ValueError(f"sizes has {text!r}: write it like drift_frames=90 or sweep_steps=1,4")
            sizes[name] = numbers if is_list else numbers[0]
        return sizes | {name: getattr(self, name) for name in _SIZE_OPTIONS if getattr(self, name) is not None}
