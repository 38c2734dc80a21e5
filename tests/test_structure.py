"""The import directions: `model` and `data` know nobody, `training` both, `evaluation` and `play` all three,
`benchmarks` these and `play`, scripts all, nobody a script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "model": {"model"},
    "data": {"data"},
    "training": {"training", "model", "data"},
    "evaluation": {"evaluation", "training", "model", "data"},
    "play": {"play", "training", "model", "data"},
    "benchmarks": {"benchmarks", "play", "training", "model", "data"},
    "scripts": {"model", "data", "training", "evaluation", "play", "benchmarks", "cli", "startup"},
    "train_world_model.py": {"training", "cli"},
    "cli.py": {"startup"},
    "startup.py": set(),
}
LOCAL = {name.removesuffix(".py") for name in ALLOWED}
SOURCES = [
    path for name in ALLOWED for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
]


def local_imports(source: str) -> set[str]:
    """Top-level names of local modules that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module.split(".")[0])
    return found & LOCAL


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    arrows = local_imports(path.read_text()) - ALLOWED[path.relative_to(ROOT).parts[0]]
    assert not arrows, f"{path.relative_to(ROOT)} imports {arrows}"


def test_a_new_arrow_is_seen():
    assert local_imports("def f():\n    from training.loop import train\n    import data.records") == {
        "training",
        "data",
    }
