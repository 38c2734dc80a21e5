"""The house: imports go one way, no files import each other in a cycle, and every file has one noun and
a name of its own.

An arrow points only to the left: games < model, data < training, editing, evaluation, play, envs < export, benchmarks,
scripts. Within a group there is no arrow but those of ALLOWED. Only entry points import `training`.
"""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"games", "model", "data", "shipped"}
ALLOWED = {
    "games": {"games"},
    "model": {"games", "model", "shipped"},
    "data": {"games", "data", "shipped"},
    "training": BASE | {"training"},
    "editing": BASE | {"editing"},
    "evaluation": BASE | {"evaluation", "editing"},  # the report has a section on edits
    "play": BASE | {"play", "editing"},  # and so has the page
    "envs": BASE | {"envs"},
    "export": BASE | {"export", "editing", "play"},
    "benchmarks": BASE | {"benchmarks", "training", "play", "envs"},
    "scripts": BASE | {"training", "editing", "evaluation", "play", "envs", "export", "benchmarks", "cli", "startup"},
    "train_world_model.py": {"training", "cli"},
    "cli.py": {"games", "startup"},
    "startup.py": set(),
    "shipped.py": set(),
    "__main__.py": {"cli"},
}
PACKAGES = {name.removesuffix(".py") for name in ALLOWED}
SOURCES = [
    path for name in ALLOWED for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
]
MIN_LINES, MAX_LINES = 60, 600
# Subjects that are small by nature. Scripts, which only read options, `__init__` files and the files of the root, which
# start the package, may be short too.
SMALL = {
    "games": {"procgen_actions.py", "ranges.py", "splitmix.py", "untrusted.py"},
    "data": {"metadata.py", "recorded_game.py", "run_lock.py"},
    "editing": {"measures.py", "page.py"},
    "evaluation": {"evaluation_config.py", "statistics.py"},
    "benchmarks": {"recordings.py"},
}


def local_imports(source: str) -> set[str]:
    """Every module of ours, `package.module`, that a source may import, also inside functions and type checks."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert not {name for name in found if name.split(".")[0] in PACKAGES}, "the package is imported as dreamrun"
    return {name.removeprefix("dreamrun.") for name in found if name.startswith("dreamrun.")}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules among `sources` that it imports."""
    return {name: (local_imports(source) & sources.keys()) - {name} for name, source in sources.items()}


def test_imports_go_one_way():
    wrong = {}
    for path in SOURCES:
        imported = {name.split(".")[0] for name in local_imports(path.read_text())}
        wrong[path.relative_to(ROOT)] = imported - ALLOWED[path.relative_to(ROOT).parts[0]]
    assert not {path: packages for path, packages in wrong.items() if packages}


def test_no_import_cycles():
    graph = import_graph({module_name(path): path.read_text() for path in SOURCES})
    assert len(graph) == len(SOURCES) and "model.config" in graph["model.dit"]
    # A package's __init__ re-exports its files, which is no cycle as long as they do not import it.
    TopologicalSorter(graph).prepare()


def test_a_cycle_and_a_new_arrow_are_found():
    graph = import_graph(
        {
            "data.a": "def f():\n    from dreamrun.data.b import g",
            "data.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dreamrun.data import a",
        }
    )
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
    imported = local_imports("def f():\n    from dreamrun.training.loop import train")
    assert imported == {"training.loop", "training.loop.train"}


def test_a_file_is_neither_long_nor_a_fragment():
    wrong = {}
    for path in SOURCES:
        lines, folder = len(path.read_text().splitlines()), path.relative_to(ROOT).parts[0]
        small = path.name in {"__init__.py", *SMALL.get(folder, ())} or folder == "scripts" or path.parent == ROOT
        if lines > MAX_LINES or (lines < MIN_LINES and not small):
            wrong[path.relative_to(ROOT)] = lines
    assert not wrong


def test_no_two_files_have_the_same_name():
    names = Counter(path.name for path in SOURCES if path.name != "__init__.py")
    assert not {name for name, number in names.items() if number > 1}
