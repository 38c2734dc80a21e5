"""Export a checkpoint for publishing: bfloat16 weights (half the size), config files and a model card (README.md).

python -m scripts.export_checkpoint --checkpoint runs/first/checkpoints/latest --out checkpoints/mygame-nano
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dreamrun import cli
from dreamrun.data.atomic import atomic_folder
from dreamrun.export.model_card import CARD_FILE, has_card, model_card
from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import CONFIG_FILE, GAME_FILE, WEIGHTS_FILE
from dreamrun.shipped import find_shipped


@dataclass(frozen=True)
class ExportConfig:
    """The checkpoint and the output folder."""

    checkpoint: Path  # a checkpoint of a run
    out: Path  # output folder; an earlier export there is replaced
    report: Path | None = None  # report.md of scripts.evaluate, to include in the card
    num_steps: int | None = None  # default number of denoising steps of a frame; None: as it is
    guidance: float | None = None  # default scale of guidance; above 1 it costs two passes a step; None: as it is


def main(config: ExportConfig) -> None:
    """Write the converted weights and the card."""
    checkpoint = find_shipped(config.checkpoint, "checkpoints").resolve()  # `latest` is a link; the card names the step
    if config.report and not config.report.is_file():
        raise ValueError(f"no report at {config.report}: create one with `dreamrun evaluate`")
    check_replaceable(config.out)
    model = WorldModel.from_pretrained(checkpoint)
    defaults = {"num_steps": config.num_steps, "guidance": config.guidance}
    model.config = replace(model.config, **{name: value for name, value in defaults.items() if value is not None})
    report = config.report.read_text() if config.report else ""
    with atomic_folder(config.out, replace=True) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        (temporary / CARD_FILE).write_text(model_card(str(config.out), model, checkpoint, report))
    size = sum(path.stat().st_size for path in config.out.iterdir())
    print(f"{config.out}: {size / 1e6:.1f} MB")


def check_replaceable(folder: Path) -> None:
    """Raises ValueError unless a folder does not exist, or holds an earlier export and nothing else."""
    if not folder.exists() and not folder.is_symlink():
        return
    files = {CONFIG_FILE, GAME_FILE, WEIGHTS_FILE, CARD_FILE}
    is_export = folder.is_dir() and not folder.is_symlink() and (has_card(folder) or folder.suffix == ".partial")
    is_export = is_export and all(path.name in files for path in folder.iterdir())
    if not is_export or Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} already exists and is not an exported checkpoint alone: choose another --out")


if __name__ == "__main__":
    cli.run(main, __doc__)
