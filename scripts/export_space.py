"""Write a Hugging Face Space that plays a checkpoint: a folder that runs with `python app.py`, and upload it.

python -m scripts.export_space --checkpoint checkpoints/pong-pico --data samples/pong --out space
python -m scripts.export_space --checkpoint checkpoints/pong-pico --data samples/pong --out space --push user/name

The token for the upload comes from `hf auth login` or HF_TOKEN. It is no option, because shells save command lines.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from dreamrun import cli
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import METADATA_FILE, read_metadata
from dreamrun.export.hub import check_logged_in, upload_folder
from dreamrun.model import WorldModel
from dreamrun.training.games import choose_game
from dreamrun.training.setup import check_model_fits_data

ROOT = Path(__file__).parent.parent
PACKAGES = ("games", "data", "model", "training", "editing", "play")  # what the page imports
LIBRARIES = (
    *("einops", "rotary-embedding-torch", "array_record", "av", "gradio", "scikit-image", "huggingface_hub"),
    *("safetensors", "tqdm", "gymnasium", "numpy", "pillow", "matplotlib", "websockets"),
)
README_FILE, REQUIREMENTS_FILE, APP_FILE = "README.md", "requirements.txt", "app.py"

_README = """\
---
title: {title}
emoji: 🎮
colorFrom: indigo
colorTo: purple
sdk: gradio
sdk_version: {gradio_version}
python_version: "3.11"
app_file: app.py
pinned: false
license: mit
short_description: Play a game that a neural network generates
suggested_hardware: cpu-basic
---

# {title}

A neural network generates every frame of this game from the frames before it and the keys that you hold.

It runs on any computer, too: `pip install -r requirements.txt`, then `python app.py`.
"""

_APP = '''\
"""The Space: plays `checkpoint` in the browser, starting from the records in `samples`."""

import contextlib
import os
from pathlib import Path

from dreamrun.play.launch import PlayConfig, launch

if __name__ == "__main__":
    public_host = os.environ.get("SPACE_HOST")  # set by Hugging Face
    config = PlayConfig(
        checkpoint="checkpoint",
        data=Path("samples"),
        split="{split}",
        host="0.0.0.0" if public_host else "127.0.0.1",
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        no_password=True,  # who may see the Space may play
        public_host=public_host,
        frame_ancestors=os.environ.get("FRAME_ANCESTORS", "https://huggingface.co") if public_host else None,
        max_players={max_players},
    )
    with contextlib.suppress(KeyboardInterrupt):
        launch(config)
'''


@dataclass(frozen=True)
class ExportSpaceConfig:
    """What to play, and where to write or upload it."""

    checkpoint: Path = Path("checkpoints/pong-pico")  # a checkpoint folder
    data: Path = Path("samples/pong")  # data set with the prompts; its held-out split is copied
    out: Path = Path("space")  # new or empty folder
    title: str = "Dreamrun"
    torch_index: str | None = None  # URL of a package index with a CPU build of torch; None: the default build
    max_players: int = 2  # who play at the same time; a free Space has two cores
    push: str | None = None  # user/name of the Space to upload to; created if it does not exist
    private: bool = False  # create a new Space as private

    def __post_init__(self):
        if not 1 <= self.max_players <= 64:
            raise ValueError(f"max_players is {self.max_players}: it must lie in 1 to 64")


def main(config: ExportSpaceConfig) -> None:
    """Check the checkpoint and the data set, write the folder, and upload it if asked to."""
    if config.push:
        check_logged_in()
    checkpoint = config.checkpoint.resolve()  # `latest` is a link
    metadata = read_metadata(config.data)
    check_model_fits_data(choose_game(WorldModel.from_pretrained(checkpoint), "", metadata), metadata, config.data)
    split = held_out_split(config.data)
    if config.out.exists() and any(config.out.iterdir()):
        raise ValueError(f"{config.out} is not empty: give a new folder with --out")
    write_space(config, checkpoint, split)
    print(f"wrote {config.out}: run it with `python app.py` in that folder")
    if config.push:
        message = f"Play {config.checkpoint.name}"
        print(f"uploaded to {upload_folder(config.out, config.push, message, config.private, space_sdk='gradio')}")


def write_space(config: ExportSpaceConfig, checkpoint: Path, split: str) -> None:
    """Write the code, the weights, the samples and the three files of a Space."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, config.out / "dreamrun" / package, ignore=ignore)
    shutil.copy(ROOT / "__init__.py", config.out / "dreamrun")
    (config.out / "checkpoint").mkdir()
    for path in (*checkpoint.glob("*.json"), *checkpoint.glob("*.safetensors")):
        shutil.copy(path, config.out / "checkpoint")
    shutil.copytree(config.data / split, config.out / "samples" / split)
    shutil.copy(config.data / METADATA_FILE, config.out / "samples")
    (config.out / APP_FILE).write_text(_APP.format(split=split, max_players=config.max_players))
    readme = _README.format(title=config.title, gradio_version=importlib.metadata.version("gradio"))
    (config.out / README_FILE).write_text(readme)
    (config.out / REQUIREMENTS_FILE).write_text("\n".join(requirements(config.torch_index)) + "\n")


def requirements(torch_index: str | None) -> list[str]:
    """Lines of requirements.txt, with this project's versions."""
    versions = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    torch_version = importlib.metadata.version("torch").partition("+")[0]
    pinned = [f"{name}=={versions[name]}" for name in LIBRARIES]
    index = [f"--extra-index-url {torch_index}"] if torch_index else []
    return [*index, f"torch=={torch_version}", *pinned]


if __name__ == "__main__":
    cli.run(main, __doc__)
