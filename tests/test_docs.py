"""README, CONTRIBUTING and docs/: the files exist, and the commands parse."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro
from tiny import config_class

from dreamrun import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Paths in the docs that commands create.
GENERATED = {
    "checkpoints/step_",
    "checkpoints/latest",
    "checkpoints/best",
    "checkpoints/mygame-nano",
    "checkpoints/coinrun-public",
}
FOLDERS = "model|data|training|evaluation|play|envs|benchmarks|scripts|tests|docs|checkpoints|samples"


def commands(text: str) -> list[list[str]]:
    """The words of each command of ours in the fenced bash blocks and in `code`."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`(python [^`]*)`", text)]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line[:1] == ["python"] and "..." not in line and "NAME" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    named = set(re.findall(rf"(?:(?<=`)|(?<=\s))((?:{FOLDERS})/[\w./-]*\w)", text))
    linked = {link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link}
    missing = {name for name in named if not (ROOT / name).exists()} - GENERATED
    missing |= {link for link in linked if not (page.parent / link).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for words in commands(page.read_text()):
        if words[1:2] == ["-m"] and words[2].startswith("scripts."):
            module, options = words[2], words[3:]
        elif words[1] == "train_world_model.py":
            module, options = "train_world_model", words[2:]
        else:
            assert (ROOT / words[1]).is_file(), words
            continue
        tyro.cli(config_class(import_module(f"dreamrun.{module}")), args=cli.modern_arguments(options))


def test_readme_is_a_page():
    assert len((ROOT / "README.md").read_text().split()) <= 1100
