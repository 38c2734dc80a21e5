"""Upload a checkpoint to the Hugging Face Hub, where `WorldModel.from_pretrained("user/name")` finds it.

python -m scripts.upload_checkpoint --checkpoint runs/first/checkpoints/latest --repo user/name

The token comes from `hf auth login` or HF_TOKEN. It is no option, because shells save command lines.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import cli
from model import WorldModel
from model.checkpoint import WEIGHTS_FILE, save_config
from training.model_card import CARD_FILE, has_card, model_card


@dataclass(frozen=True)
class UploadConfig:
    """The checkpoint and the repository."""

    checkpoint: Path  # a checkpoint folder
    repo: str  # user/name; created if it does not exist
    private: bool = False  # create a new repository as private


def main(config: UploadConfig) -> None:
    """Check the checkpoint, write a card, and upload both."""
    checkpoint = config.checkpoint.resolve()  # `latest` is a link; the card names the step
    model = WorldModel.from_pretrained(checkpoint)
    if not get_token():
        raise ValueError("not logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_config(Path(folder), model.config, model.game)
        shutil.copy(checkpoint / WEIGHTS_FILE, folder)
        card = model_card(config.repo, model, checkpoint)
        if has_card(checkpoint):  # an exported checkpoint
            card = (checkpoint / CARD_FILE).read_text()
        (Path(folder) / CARD_FILE).write_text(card)
        try:
            api.create_repo(config.repo, private=config.private, exist_ok=True)
            message = f"Upload {checkpoint.name}"
            url = api.upload_folder(repo_id=config.repo, folder_path=folder, commit_message=message).repo_url
        except (HfHubHTTPError, HFValidationError) as error:
            raise ValueError(f"the Hub refused {config.repo}: {first_line(error)}") from None
        except Exception as error:  # without a network: an error of whichever HTTP library huggingface_hub uses
            raise ValueError(f"{config.repo} could not be uploaded to {api.endpoint}: {first_line(error)}") from None
    print(f"uploaded to {url}")


def first_line(error: Exception) -> str:
    """The first line of an error message, or the error's name if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    cli.run(main, UploadConfig, __doc__)
