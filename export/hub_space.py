"""A Hugging Face Space that plays a checkpoint: a folder that runs with `python app.py`."""

import importlib.metadata
import re
import shutil
import tomllib
from pathlib import Path

from dreamrun.data.metadata import METADATA_FILE
from dreamrun.shipped import ROOT

CODE = ("__init__.py", "shipped.py", "games", "data", "model", "editing", "play")  # what the page imports
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


def write_space(folder: Path, checkpoint: Path, split: Path, title: str, max_players: int, torch_index: str) -> None:
    """Write the code, the weights, the prompts and the three files of a Space.

    Args:
        folder: new or empty.
        split: folder of the prompts' records, inside of its data set.
        torch_index: URL of a package index with torch; "": PyPI.
    """
    (folder / "dreamrun").mkdir(parents=True)
    for path in (ROOT / name for name in CODE):
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / "dreamrun" / path.name, ignore=ignore)
        else:
            shutil.copy(path, folder / "dreamrun")
    (folder / "checkpoint").mkdir()
    for path in (*checkpoint.glob("*.json"), *checkpoint.glob("*.safetensors")):
        shutil.copy(path, folder / "checkpoint")
    shutil.copytree(split, folder / "samples" / split.name)
    shutil.copy(split.parent / METADATA_FILE, folder / "samples")
    (folder / APP_FILE).write_text(_APP.format(split=split.name, max_players=max_players))
    readme = _README.format(title=title, gradio_version=importlib.metadata.version("gradio"))
    (folder / README_FILE).write_text(readme)
    (folder / REQUIREMENTS_FILE).write_text("\n".join(requirements(torch_index)) + "\n")


def requirements(torch_index: str = "") -> list[str]:
    """Lines of requirements.txt: what the package depends on, in the versions that are installed here."""
    depends_on = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", line)[0] for line in depends_on]
    versions = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
    return [f"--extra-index-url {torch_index}", *versions] if torch_index else versions
