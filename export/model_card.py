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
    """A README for a checkpoint. What it says about training comes from the run folder around the checkpoint.

    Args:
        name: the name to load it by: a folder, or user/name on the Hub.
        report: results on held-out play, in Markdown.
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
    metrics = last_metrics(checkpoint)
    made_by = commands(checkpoint)
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
    if made_by:
        parts += ["## How it was made", _fenced("bash", *made_by)]
    parts.append(training_budget(checkpoint))
    if metrics:
        parts += [_table(("metric", "last value"), {name: f"{value:.4g}" for name, value in metrics.items()})]
    if report:
        parts += ["## What was measured", report.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def has_card(folder: Path) -> bool:
    """Whether a folder holds a checkpoint with a card that we wrote."""
    path = folder / CARD_FILE
    return path.is_file() and LIBRARY in path.read_text()


def last_metrics(checkpoint: Path) -> dict[str, float]:
    """The last value of each of SHOWN_METRICS up to the checkpoint's step; empty without the run folder."""
    return {name: line[name] for line in _metrics(checkpoint) for name in SHOWN_METRICS if name in line}


def training_budget(checkpoint: Path) -> str:
    """Number of steps and clips and hours of training, from the metrics of its runs; "" without them."""
    num_steps = num_clips = secs = 0
    for run_checkpoint in _checkpoints_of_runs(checkpoint):
        step = 0
        for line in _metrics(run_checkpoint):
            if line.get("train/clips_per_sec"):
                clips = (line["step"] - step) * _train_config(run_checkpoint)["batch_size"]
                num_clips, secs, step = num_clips + clips, secs + clips / line["train/clips_per_sec"], line["step"]
        num_steps += step
    return f"{num_steps} steps, {num_clips} clips, {secs / 3600:.1f} hours of training." if num_steps else ""


def commands(checkpoint: Path) -> list[str]:
    """The commands that collected the data and trained a checkpoint, in their order, each once.

    It follows `init_from` from run to run. Runs of old versions did not note their commands: they add none.
    """
    all_commands = []
    for run_checkpoint in _checkpoints_of_runs(checkpoint):
        if train_commands := _train_commands(run_checkpoint):
            data = _train_config(run_checkpoint)["data"]
            for folder in data if isinstance(data, list) else [data]:
                all_commands += _data_commands(Path(folder))
            all_commands += train_commands
    return list(dict.fromkeys(all_commands))


def _train_commands(checkpoint: Path) -> list[str]:
    path, step = _run_folder(checkpoint) / COMMANDS_FILE, _step(checkpoint)
    lines = read_json_lines(path) if path.is_file() else []
    return [
        printable(line["command"])[:MAX_COMMAND_CHARS]
        for line in lines
        if type(line.get("step")) is int and (step is None or line["step"] < step) and type(line.get("command")) is str
    ]


def _data_commands(data: Path) -> list[str]:
    """The command that made a data set, if its metadata holds one."""
    path = data / METADATA_FILE
    values = read_json(path) if path.is_file() else None
    command = values.get("command") if isinstance(values, dict) else None
    return [printable(command)[:MAX_COMMAND_CHARS]] if isinstance(command, str) and command else []


def _checkpoints_of_runs(checkpoint: Path) -> list[Path]:
    """The checkpoint, and before it those that its run and earlier runs started from by `init_from`, oldest first.

    It goes back as far as the run folders exist.
    """
    checkpoints: list[Path] = []
    while (config := _train_config(checkpoint)) and checkpoint not in checkpoints:  # a run could name itself
        checkpoints.append(checkpoint)
        checkpoint = Path(config["init_from"])
    return checkpoints[::-1]


def _run_folder(checkpoint: Path) -> Path:
    return checkpoint.parent.parent


def _step(checkpoint: Path) -> int | None:
    """The step in the name of a checkpoint folder such as `step_0000500`; None if it has another name."""
    number = checkpoint.name.removeprefix("step_")
    return int(number) if number.isdecimal() and len(number) < 20 else None


def _train_config(checkpoint: Path) -> dict:
    """The options of a checkpoint's run; empty without its run folder."""
    path = _run_folder(checkpoint) / TRAIN_CONFIG_FILE
    return read_json(path) if checkpoint.name and path.is_file() else {}


def _metrics(checkpoint: Path) -> list[dict]:
    path, step = _run_folder(checkpoint) / METRICS_FILE, _step(checkpoint)
    if step is None or not path.is_file():
        return []
    return [line for line in read_metrics(path) if line["step"] <= step]


def _fenced(language: str, *lines: str) -> str:
    """A block of code. Its fence is longer than any that the lines hold, so that none of them ends it."""
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join((f"{fence}{language}", *lines, fence))


def _table(head: tuple[str, str], rows: dict) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
