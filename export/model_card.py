"""Model cards: what a checkpoint is, how to use it, which commands made it, what was measured."""

import re
from pathlib import Path

from dreamrun.data.metadata import METADATA_FILE
from dreamrun.data.metrics_log import COMMANDS_FILE, METRICS_FILE, TRAIN_CONFIG_FILE, read_json_lines, read_metrics
from dreamrun.games.untrusted import markdown, printable, read_json
from dreamrun.model.dit import WorldModel

CARD_FILE = "README.md"
LIBRARY = "library_name: dreamrun"  # our cards have this line; those that the Hub's library writes do not
MAX_COMMAND_CHARS = 10_000
SHOWN_METRICS = (
    "train/loss",
    "val/loss",
    "epoch/val_loss",
    "epoch/psnr",
    "epoch/ssim",
    "val/action_ratio",
    "val/fill_loss",
)


def model_card(name: str, model: WorldModel, checkpoint: Path, report: str = "") -> str:
    """A README for a checkpoint that is loaded by `name`, with a report on held-out play, in Markdown.

    What it says about training comes from the run folder around the checkpoint.
    """
    config, game = model.config, model.game
    architecture = {
        "frames": f"{config.frame_width}x{config.frame_height}, {game.fps:g} a second",
        "width, blocks, heads": f"{config.dim}, {config.num_blocks}, {config.num_heads}",
        "window": f"{config.window_frames} frames",
        "prediction": config.prediction,
        "denoising steps": config.num_steps,
        "guidance": f"{config.guidance:g}",
        "fills in missing frames": "yes" if config.can_fill else "no",
        "actions": config.num_actions if game.games else markdown(", ".join(game.actions.names)),
    }
    if game.games:
        architecture["frames"] = markdown(
            ", ".join(f"{g.frame_shape[1]}x{g.frame_shape[0]} ({g.name})" for g in game.games)
        )
        architecture["learnt words"] = "yes" if config.words else "no"
    names = markdown(", ".join(part.name for part in game.games) or game.environment)
    options = ", ".join(f"{markdown(name)}={markdown(value)}" for name, value in game.environment_options)
    metrics = {n: f"{line[n]:.4g}" for line in _Run(checkpoint).metrics() for n in SHOWN_METRICS if n in line}
    parts = [
        f"---\n{LIBRARY}\ntags: [world-model, diffusion, reinforcement-learning]\n---",
        f"# {name.split('/')[-1]}",
        f"A world model of {names or 'a game'}{f' ({options})' if options else ''}, trained with "
        f"Dreamrun ({markdown(checkpoint.name)}): given frames and the keys you press, it dreams the next frame.",
        _fenced(
            "python",
            "from dreamrun import Sampler, WorldModel\n",
            f'sampler = Sampler(WorldModel.from_pretrained("{name}"))',
        ),
        _table(("", ""), architecture),
    ]
    if made_by := commands(checkpoint):
        parts += ["## How it was made", _fenced("bash", *made_by)]
    parts.append(training_budget(checkpoint))
    if metrics:
        parts.append(_table(("metric", "last value"), metrics))
    if report:
        parts += ["## What was measured", report.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def has_card(folder: Path) -> bool:
    """Whether a folder holds a checkpoint with a card that we wrote."""
    path = folder / CARD_FILE
    return path.is_file() and LIBRARY in path.read_text()


class _Run:
    """What the folder of a run says of one of its checkpoints. Without that folder: nothing."""

    def __init__(self, checkpoint: Path):
        self._folder, number = checkpoint.parent.parent, checkpoint.name.removeprefix("step_")
        self.step = int(number) if number.isdecimal() and len(number) < 20 else None  # None: it has another name
        path = self._folder / TRAIN_CONFIG_FILE
        self.config = read_json(path) if checkpoint.name and path.is_file() else {}

    def metrics(self) -> list[dict]:
        """Lines of metrics up to the checkpoint's step."""
        path = self._folder / METRICS_FILE
        lines = read_metrics(path) if self.step is not None and path.is_file() else []
        return [line for line in lines if line["step"] <= self.step]

    def commands(self) -> list[str]:
        """The commands that trained the checkpoint, after those that collected the data. Old runs noted none."""
        path, data = self._folder / COMMANDS_FILE, self.config["data"]
        lines = read_json_lines(path) if path.is_file() else []
        lines = [line for line in lines if type(line.get("step")) is int and type(line.get("command")) is str]
        trained = [line["command"] for line in lines if self.step is None or line["step"] < self.step]
        collected = [_data_command(Path(folder)) for folder in (data if isinstance(data, list) else [data])]
        return [printable(line)[:MAX_COMMAND_CHARS] for line in (*collected, *trained) if line] if trained else []


def _data_command(data: Path) -> str:
    """The command that made a data set; "" if its metadata holds none."""
    path = data / METADATA_FILE
    values = read_json(path) if path.is_file() else None
    command = values.get("command") if isinstance(values, dict) else None
    return command if isinstance(command, str) else ""


def _runs(checkpoint: Path) -> list[_Run]:
    """The run of a checkpoint, and before it those that it and earlier ones started from by `init_from`, oldest first.

    It goes back as far as the run folders exist.
    """
    runs: dict[Path, _Run] = {}
    while checkpoint not in runs and (run := _Run(checkpoint)).config:  # a run could name itself
        runs[checkpoint] = run
        checkpoint = Path(run.config["init_from"])
    return list(runs.values())[::-1]


def training_budget(checkpoint: Path) -> str:
    """Number of steps and clips and hours of training, from the metrics of its runs; "" without them."""
    num_steps = num_clips = secs = 0
    for run in _runs(checkpoint):
        step = 0
        for line in run.metrics():
            if line.get("train/clips_per_sec"):
                clips = (line["step"] - step) * run.config["batch_size"]
                num_clips, secs, step = num_clips + clips, secs + clips / line["train/clips_per_sec"], line["step"]
        num_steps += step
    return f"{num_steps} steps, {num_clips} clips, {secs / 3600:.1f} hours of training." if num_steps else ""


def commands(checkpoint: Path) -> list[str]:
    """The commands that collected the data and trained a checkpoint, in their order, each once."""
    return list(dict.fromkeys(line for run in _runs(checkpoint) for line in run.commands()))


def _fenced(language: str, *lines: str) -> str:
    """A block of code. Its fence is longer than any that the lines hold, so that none of them ends it."""
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}{language}", *lines, fence))


def _table(head: tuple[str, str], rows: dict) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
