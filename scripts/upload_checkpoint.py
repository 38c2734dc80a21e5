"""Upload a checkpoint to the Hugging Face Hub, where `WorldModel.from_pretrained("user/name")` finds it.

python -m scripts.upload_checkpoint --checkpoint runs/first/checkpoints/latest --repo user/name

The token comes from `hf auth login` or HF_TOKEN. It is no option, because shells save command lines.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dreamrun import cli
from dreamrun.export.hub import check_logged_in, upload_folder
from dreamrun.export.model_card import CARD_FILE, has_card, model_card
from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import WEIGHTS_FILE, save_config
from dreamrun.shipped import find_shipped


@dataclass(frozen=True)
class UploadConfig:
    """The checkpoint and the repository."""

    checkpoint: Path  # a checkpoint folder
    repo: str  # user/name; created if it does not exist
    private: bool = False  # create a new repository as private


def main(config: UploadConfig) -> None:
    """Check the checkpoint, write a card, and upload both."""
    checkpoint = find_shipped(config.checkpoint, "checkpoints").resolve()  # `latest` is a link; the card names the step
    model = WorldModel.from_pretrained(checkpoint)
    check_logged_in()
    with tempfile.TemporaryDirectory() as folder:
        save_config(Path(folder), model.config, model.game)
        shutil.copy(checkpoint / WEIGHTS_FILE, folder)
        is_exported = has_card(checkpoint)
        card = (checkpoint / CARD_FILE).read_text() if is_exported else model_card(config.repo, model, checkpoint)
        (Path(folder) / CARD_FILE).write_text(card)
        url = upload_folder(Path(folder), config.repo, f"Upload {checkpoint.name}", config.private)
    print(f"uploaded to {url}")


if __name__ == "__main__":
    cli.run(main, __doc__)
