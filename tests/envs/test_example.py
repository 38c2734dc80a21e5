"""The examples of README.md and docs/environment.md run, word for word but for fewer steps."""

import re
from pathlib import Path

from dreamrun.envs import DREAM_ID

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "docs" / "environment.md", ROOT / "README.md")


def test_the_examples_of_the_documentation_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = [
        block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    ]
    examples = [block for block in blocks if DREAM_ID in block]
    assert len(examples) == len(PAGES)
    for example in examples:
        names = {}
        exec(example.replace("range(100)", "range(5)"), names)
        assert names["env"].observation_space.contains(names["frame"]) and isinstance(names["reward"], float)
