"""Files of strangers: JSON of bounded size and depth, and text that is safe to show."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

# Control characters, which move the cursor or change the terminal, line separators, marks that reverse the direction of
# text, and surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What Markdown takes for more than text: code, emphasis, tags, cells and formulas; pictures, links and bare addresses;
# entities.
_MARKDOWN = re.compile(r"[\\`*<|~$]|(?<!\w)_|_(?!\w)|!(?=\[)|\](?=[(\[:])|:(?=//)|(?<=www)\.|&(?=[#\w])", re.IGNORECASE)
MAX_NAME_CHARS = 200
MAX_JSON_BYTES = 64 * 2**20


def printable(text: object) -> str:
    r"""The text with characters that act on a terminal replaced by their escapes, such as \x1b."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def markdown(text: object) -> str:
    r"""Markdown that shows the text as it is: `<img>` becomes `\<img>`, and a line break is no new line."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def check_name(description: str, name: object, max_chars: int = MAX_NAME_CHARS) -> str:
    """Check a name that people and terminals will see, and return it."""
    if not isinstance(name, str) or len(name) > max_chars or _UNPRINTABLE.search(name):
        raise ValueError(f"{description} is {name!r:.40}: use at most {max_chars} characters, no control characters")
    return name


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The parsed content of a JSON file.

    Raises:
        ValueError: the file is too large, nested too deeply, or not JSON.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        info = os.fstat(file.fileno())  # `read` allocates as many bytes as it may return
        data = file.read(1 + (min(info.st_size, max_bytes) if stat.S_ISREG(info.st_mode) else max_bytes))
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes / 2**20:g} MiB")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
