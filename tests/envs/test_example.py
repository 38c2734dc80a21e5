"""The examples of README.md and docs/environment.md run, word for word but for fewer steps."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "docs" / "environment.md", ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_the_documentation_run(monkeypatch, page):
    monkeypatch.chdir(ROOT)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(re.sub(r"range\(\d+\)", "range(3)", example), names)
    assert names["env"].observation_space.contains(names["frame"]) and isinstance(names["reward"], float)
    if page.name == "README.md":
        assert names["next_frame"].shape == (2, 3, 64, 64) and names["next_frame"].isfinite().all()
