"""Messages of the websocket, which stage/protocol.md describes: how they are parsed and packed."""

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dreamrun.games.game import MAX_CAPTION_CHARS
from dreamrun.games.ranges import Range, check_ranges
from dreamrun.model.options import RANGES, ResolvedSettings, SamplerSettings

MAX_MESSAGE_BYTES = 4096  # of a JSON message
MAX_KEY_CHARS = 16  # in the name of a key
MAX_HELD_KEYS = 16  # in one message
MAX_ACTION_CHARS = 200  # in the name of an action


def pack_pictures(header: dict[str, Any], pictures: Sequence[np.ndarray]) -> bytes:
    """A binary message: a JSON header, then the pixels of pictures uint8 (H, W, C)."""
    text = json.dumps({**header, "pictures": len(pictures)}).encode()
    return b"".join((struct.pack("<I", len(text)), text, *map(np.ndarray.tobytes, pictures)))


def unpack_pictures(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `pack_pictures`: the header, and the bytes of all pictures."""
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def parse(text: str) -> dict[str, Any]:
    """Parse a JSON object with a type."""
    if len(text) > MAX_MESSAGE_BYTES:
        raise ValueError(f"the message has {len(text)} characters: at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("the message is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("the message is not an object with a type")
    return message


def parse_int(message: dict, name: str, min_value: int, max_value: int, default: int | None = None) -> Any:
    """An integer field; `default` if it is null or missing."""
    value = message.get(name)
    if value is None:
        return default
    Range(min_value, max_value).check(name, value)
    return value


def parse_settings(message: dict, defaults: ResolvedSettings) -> ResolvedSettings:
    """The sampler settings of a message, whose "words" are the text; `defaults` where they are null or missing."""
    given = {name: message[name] for name in RANGES if message.get(name) is not None}
    if message.get("words") is not None:
        given["text"] = parse_text(message, "words", MAX_CAPTION_CHARS)
    check_ranges(SamplerSettings(**given), in_play=True)
    return replace(defaults, **given)


def parse_bool(message: dict, name: str) -> bool:
    """A field that is true or false."""
    value = message.get(name)
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r:.40}: expected true or false")
    return value


def parse_text(message: dict, name: str, max_chars: int) -> str:
    """A short text field."""
    value = message.get(name)
    if not isinstance(value, str) or len(value) > max_chars:
        raise ValueError(f"{name} is not a text of at most {max_chars} characters")
    return value


def parse_keys(message: dict, name: str) -> list[str]:
    """A field that is a short list of key names."""
    keys = message.get(name)
    if not isinstance(keys, list) or len(keys) > MAX_HELD_KEYS:
        raise ValueError(f"{name} is not a list of at most {MAX_HELD_KEYS} keys")
    return [parse_text({name: key}, name, MAX_KEY_CHARS) for key in keys]
