"""Imports go one way, and no files import each other in a cycle.

`model` and `data` import nothing local, `training` both, `evaluation`, `play` and `envs` these three, `web` these and
`play`, `benchmarks` these, `play` and `envs`, `scripts` all; nothing imports a script.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "model": {"model"},
    "data": {"data"},
    "training": {"training", "model", "data"},
    "evaluation": {"evaluation", "training", "model", "data"},
    "play": {"play", "training", "model", "data"},
    "envs": {"envs", "training", "model", "data"},
    "benchmarks": {"benchmarks", "envs", "play", "training", "model", "data"},
    "web": {"web", "play", "training", "model", "data"},
    "scripts": {"model", "data", "training", "evaluation", "play", "envs", "benchmarks", "web", "cli", "startup"},
    "train_world_model.py": {"training", "cli"},
    "cli.py": {"data", "startup"},
    "startup.py": set(),
}
PACKAGES = {name.removesuffix(".py") for name in ALLOWED}
SOURCES = [
    path for name in ALLOWED for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
]
MAX_LINES = 350


def local_imports(source: str) -> set[str]:
    """Every local module, `package.module`, that a source may import, also inside functions and type checks."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> the modules among `sources` that it imports."""
    return {name: (local_imports(source) & sources.keys()) - {name} for name, source in sources.items()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    imported = {name.split(".")[0] for name in local_imports(path.read_text())}
    wrong = imported - ALLOWED[path.relative_to(ROOT).parts[0]]
    assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_no_import_cycles():
    graph = import_graph({module_name(path): path.read_text() for path in SOURCES})
    assert len(graph) == len(SOURCES) and "model.config" in graph["model.dit"]
    # A package's __init__ re-exports its files, which is no cycle as long as they do not import it.
    TopologicalSorter(graph).prepare()


def test_a_cycle_and_a_new_arrow_are_found():
    graph = import_graph(
        {
            "data.a": "def f():\n    from data.b import g",
            "data.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from data import a",
        }
    )
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
    assert local_imports("def f():\n    from training.loop import train") == {"training.loop", "training.loop.train"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path):
    limit = 200 if path == ROOT / "training" / "loop.py" else MAX_LINES
    assert len(path.read_text().splitlines()) <= limit
