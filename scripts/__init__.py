"""Commands: `python -m scripts.NAME`."""

import startup  # noqa: F401  before the slow imports of a command
