"""The examples of README.md and docs/environment.md run, word for word but for the checkpoint."""

import re
from pathlib import Path

from test_dream import dream_model

from envs import DREAM_ID

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "docs" / "environment.md", ROOT / "README.md")


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    dream_model(0.1).save_pretrained(tmp_path / "head")
    monkeypatch.chdir(ROOT)
    blocks = [
        block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    ]
    examples = [block for block in blocks if DREAM_ID in block]
    assert examples
    for example in examples:
        assert '"runs/heads/checkpoints/latest"' in example
        code = example.replace('"runs/heads/checkpoints/latest"', repr(str(tmp_path / "head"))).replace(
            "range(100)", "range(5)"
        )
        names = {}
        exec(code, names)
        assert names["env"].observation_space.contains(names["frame"]) and isinstance(names["reward"], float)
