"""What goes over the websocket.

From the browser: JSON objects with a "type", and an image of the player's own as its bare pixels (the page scales it,
so that the server decodes no files of strangers). To the browser: JSON objects, and pictures: four bytes with the
length of a JSON object, little-endian; the object; bare pixels (H x W x C bytes a picture, as many as it says).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_MESSAGE_BYTES = 4096  # of JSON
MAX_SEED = 2**31 - 1
MAX_KEY_LETTERS = 16


class BadMessage(ValueError):
    """A message that no page of ours sends; says what is wrong with it."""


def with_pixels(header: dict[str, Any], pictures: Sequence[np.ndarray]) -> bytes:
    """Pictures uint8 (H, W, C) with what is said of them."""
    text = json.dumps({**header, "pictures": len(pictures)}).encode()
    return b"".join((struct.pack("<I", len(text)), text, *map(np.ndarray.tobytes, pictures)))


def split_pixels(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `with_pixels`: what is said, and all pictures' bytes."""
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def parse(text: str) -> dict[str, Any]:
    """A JSON object with a type.

    Raises:
        BadMessage: anything else.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"a message of {len(text)} characters: at most {MAX_MESSAGE_BYTES}")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessage("not an object with a type")
    return message


def parse_int(message: dict, name: str, least: int, most: int, default: int | None = None) -> int | None:
    """A whole number of a message; `default` where it is null or left out, if there is a default.

    Raises:
        BadMessage: no whole number from `least` to `most`.
    """
    value = message.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise BadMessage(f"{name} is {value!r:.40}: expected a whole number from {least} to {most}")
    return value


def parse_float(message: dict, name: str, least: float, most: float, default: float) -> float:
    """A number of a message, as `whole`."""
    value = message.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise BadMessage(f"{name} is {value!r:.40}: expected a number from {least} to {most}")
    return float(value)


def parse_bool(message: dict, name: str) -> bool:
    """True or false. Raises BadMessage."""
    value = message.get(name)
    if type(value) is not bool:
        raise BadMessage(f"{name} is {value!r:.40}: expected true or false")
    return value


def parse_names(message: dict, name: str, most: int = 16) -> list[str]:
    """A short list of short words. Raises BadMessage."""
    value = message.get(name)
    if (
        not isinstance(value, list)
        or len(value) > most
        or not all(isinstance(x, str) and len(x) <= MAX_KEY_LETTERS for x in value)
    ):
        raise BadMessage(f"{name} is not a list of at most {most} keys")
    return value
