"""Put a checkpoint on the Hugging Face Hub; `WorldModel.from_pretrained("user/name")` loads it from there.

python -m scripts.upload_checkpoint --checkpoint runs/first/checkpoints/latest --repo user/name

The token comes from `hf auth login` or HF_TOKEN, never from the command line, which shells remember.
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
    """What to upload, and where to."""

    checkpoint: Path  # a checkpoint folder
    repo: str  # user/name; made if it is not there yet
    private: bool = False  # a new repository is seen by nobody else


def main(config: UploadConfig) -> None:
    """Check, write a card, upload."""
    checkpoint = config.checkpoint.resolve()  # `latest` is a link, and the card names the step
    model = WorldModel.from_pretrained(checkpoint)
    if not get_token():
        raise ValueError("not logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_config(Path(folder), model.config, model.game)
        shutil.copy(checkpoint / WEIGHTS_FILE, folder)
        card = model_card(config.repo, model, checkpoint)
        if has_card(checkpoint):  # it was exported
            card = (checkpoint / CARD_FILE).read_text()
        (Path(folder) / CARD_FILE).write_text(card)
        try:
            api.create_repo(config.repo, private=config.private, exist_ok=True)
            message = f"Upload {checkpoint.name}"
            url = api.upload_folder(repo_id=config.repo, folder_path=folder, commit_message=message).repo_url
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(f"the Hub did not take {config.repo}: {str(error).splitlines()[0]}") from None
    print(f"uploaded to {url}")


if __name__ == "__main__":
    cli.run(main, UploadConfig, __doc__)
