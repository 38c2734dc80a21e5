"""Commands: `dreamrun NAME`, or `python -m scripts.NAME` in a clone. `cli.COMMANDS` lists them."""

from dreamrun import startup  # noqa: F401  before the slow imports of a command
