"""Model cards: what a checkpoint is, how to use it, how it was made, what was measured."""

from __future__ import annotations

import json
import shlex
from dataclasses import MISSING, fields
from pathlib import Path

from data.games.collect import CollectConfig
from data.metadata import METADATA_FILE
from model.dit import WorldModel
from training.config import TrainConfig
from training.logging import METRICS_FILE, read_metrics

CARD_FILE = "README.md"
TRAIN_CONFIG_FILE = "train_config.json"
LIBRARY = "library_name: dreamrun"  # by which our cards are told from the Hub library's own
SHOWN_METRICS = ("train/loss", "val/loss", "epoch/val_loss", "epoch/psnr", "epoch/ssim", "val/action_ratio")


def model_card(name: str, model: WorldModel, checkpoint: Path, report: str = "") -> str:
    """A README for a checkpoint; it says as much as the run folder around the checkpoint and the data set tell.

    Args:
        name: a folder, or user/name on the Hub, to load it by.
        report: what was measured on held-out play, in Markdown.
    """
    config, game = model.config, model.game
    architecture = {
        "frames": f"{config.frame_width}x{config.frame_height}, {game.fps:g} a second",
        "width, blocks, heads": f"{config.dim}, {config.num_blocks}, {config.num_heads}",
        "window": f"{config.window_frames} frames",
        "prediction": config.prediction,
        "denoising steps": config.num_steps,
        "actions": ", ".join(game.action_names) or config.num_actions,
    }
    options = ", ".join(f"{name}={value}" for name, value in game.environment_options)
    metrics = last_metrics(checkpoint)
    made = commands(checkpoint)
    parts = [
        f"---\n{LIBRARY}\ntags: [world-model, diffusion, reinforcement-learning]\n---",
        f"# {name.split('/')[-1]}",
        f"A world model of {game.environment or 'a game'}{f' ({options})' if options else ''}, trained with "
        f"Dreamrun ({checkpoint.name}): given frames and the keys you press, it dreams the next frame.",
        _fenced(
            "python",
            "from model import Sampler, WorldModel\n",
            f'sampler = Sampler(WorldModel.from_pretrained("{name}"))',
        ),
        _table(("", ""), architecture),
    ]
    if made:
        parts += ["## How it was made", _fenced("bash", *made), training_budget(checkpoint)]
    if metrics:
        parts += [_table(("metric", "last value"), {name: f"{value:.4g}" for name, value in metrics.items()})]
    if report:
        parts += ["## What was measured", report.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def has_card(folder: Path) -> bool:
    """Whether a folder holds a checkpoint with a card of ours."""
    path = folder / CARD_FILE
    return path.is_file() and LIBRARY in path.read_text()


def last_metrics(checkpoint: Path) -> dict[str, float]:
    """The last value of each metric worth showing, up to the checkpoint's step; none without the run's folder."""
    return {name: line[name] for line in _metrics(checkpoint) for name in SHOWN_METRICS if name in line}


def training_budget(checkpoint: Path) -> str:
    """How many clips a checkpoint has seen and how long that took, as its runs' metrics tell; "" without them."""
    num_steps = num_clips = secs = 0
    for leg in _legs(checkpoint):
        done = 0
        for line in _metrics(leg):
            if line.get("train/clips_per_sec"):
                clips = (line["step"] - done) * _settings(leg)["batch_size"]
                num_clips, secs, done = num_clips + clips, secs + clips / line["train/clips_per_sec"], line["step"]
        num_steps += done
    return f"{num_steps} steps, {num_clips} clips, {secs / 3600:.1f} hours of training." if num_steps else ""


def commands(checkpoint: Path) -> list[str]:
    """The command lines that collect the data and train, leg by leg, options left at their defaults left out."""
    lines = [line for leg in _legs(checkpoint) for line in _leg_commands(leg)]
    return list(dict.fromkeys(lines))  # legs of the same data collect it once


def _legs(checkpoint: Path) -> list[Path]:
    """The checkpoints that the runs behind a checkpoint ended with, oldest first, as far back as their folders are."""
    settings = _settings(checkpoint)
    if not settings:
        return []
    return [*(_legs(Path(settings["init_from"])) if settings["init_from"] else []), checkpoint]


def _leg_commands(checkpoint: Path) -> list[str]:
    settings, lines = _settings(checkpoint), []
    metadata = Path(settings["data"]) / METADATA_FILE
    collected = json.loads(metadata.read_text()).get("collect") if metadata.is_file() else None
    data = f"datasets/{Path(settings['data']).name}"
    if collected:
        lines.append(_command("python -m scripts.collect", CollectConfig, collected | {"out": data}))
    begun_with = Path(settings["init_from"]).parts
    is_run = begun_with[-4:-3] == ("runs",)  # runs/NAME/checkpoints/STEP, or checkpoints/NAME, wherever that was
    begun_with = "/".join(begun_with[-4:] if is_run else begun_with[-2:])
    run = {"data": data, "out": f"runs/{Path(settings['out']).name}", "resume": "", "init_from": begun_with}
    if not settings["decay_fraction"] and (step := checkpoint.name.removeprefix("step_")).isdigit():
        run["max_steps"] = int(step)  # it may have been stopped: with a constant learning rate, that is the same
    return [*lines, _command("python train_world_model.py", TrainConfig, settings | run)]


def _command(program: str, config_class: type, settings: dict) -> str:
    words = [program]
    for field in fields(config_class):
        value = settings.get(field.name)
        option = "--" + field.name.replace("_", "-")
        if value is None or (field.default is not MISSING and value == field.default):
            continue
        if field.type == "bool":
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words.append(f"{option} {shlex.quote(str(value))}")
    return " ".join(words)


def _settings(checkpoint: Path) -> dict:
    path = checkpoint.parent.parent / TRAIN_CONFIG_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _metrics(checkpoint: Path) -> list[dict]:
    path = checkpoint.parent.parent / METRICS_FILE
    step = checkpoint.name.removeprefix("step_")
    if not path.is_file() or not step.isdigit():
        return []
    return [line for line in read_metrics(path) if line["step"] <= int(step)]


def _fenced(language: str, *lines: str) -> str:
    return "\n".join((f"```{language}", *lines, "```"))


def _table(head: tuple[str, str], rows: dict) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)
