"""The Hugging Face Hub: uploading a folder, and a Space that plays a checkpoint, which runs with `python app.py`."""

import importlib.metadata
import re
import shutil
import tomllib
from pathlib import Path
from string import Template

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from dreamrun.data.metadata import METADATA_FILE
from dreamrun.shipped import ROOT

SPACE_CODE = ("__init__.py", "shipped.py", "games", "data", "model", "editing", "play")  # what the page imports


def check_logged_in() -> None:
    """Raises ValueError without a token, which comes from `hf auth login` or HF_TOKEN."""
    if not get_token():
        raise ValueError("not logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")


def upload_folder(
    folder: Path, repository: str, message: str, private: bool = False, space_sdk: str | None = None
) -> str:
    """Upload a folder to user/name, which is created if it does not exist, and return its address.

    With `space_sdk`, "gradio" or "static", it is a Space; without, a model.
    """
    api, repo_type = HfApi(), "model" if space_sdk is None else "space"
    try:
        api.create_repo(repository, repo_type=repo_type, space_sdk=space_sdk, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, repo_type=repo_type, folder_path=folder, commit_message=message)
        return str(commit.repo_url)
    except (HfHubHTTPError, HFValidationError) as error:
        raise ValueError(f"the Hub refused {repository}: {_first_line(error)}") from None
    except Exception as error:  # without a network: an error of whichever HTTP library huggingface_hub uses
        raise ValueError(f"{repository} could not be uploaded to {api.endpoint}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def write_space(folder: Path, checkpoint: Path, split: Path, title: str, max_players: int, torch_index: str) -> None:
    """Write the code, the weights, the prompts in a `split` of a data set, and the three files of a Space."""
    (folder / "dreamrun").mkdir(parents=True)
    for path in (ROOT / name for name in SPACE_CODE):
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
    values = {"split": split.name, "max_players": max_players, "title": title}
    values["gradio_version"] = importlib.metadata.version("gradio")
    for name, template in (("app.py", "app.py.txt"), ("README.md", "space.md")):
        (folder / name).write_text(Template((ROOT / "export" / "space" / template).read_text()).substitute(values))
    (folder / "requirements.txt").write_text("\n".join(requirements(torch_index)) + "\n")


def requirements(torch_index: str = "") -> list[str]:
    """Lines of requirements.txt: what the package depends on, in the versions that are installed here."""
    depends_on = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[^\w.-]", line)[0] for line in depends_on]
    versions = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
    return [f"--extra-index-url {torch_index}", *versions] if torch_index else versions
