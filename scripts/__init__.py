"""Commands: `python -m scripts.NAME`."""

from dreamrun import startup  # noqa: F401  before the slow imports of a command
