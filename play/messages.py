"""The websocket protocol: message types, their JSON keys, and how messages are parsed and packed.

Messages are JSON objects with a "type". Two kinds are binary: an image that the player sends, as H * W * C bytes (the
page scales it, so the server never decodes an image file), and pictures that the server sends: four bytes
(little-endian) with the length of a JSON object, the object, then H * W * C bytes for each of its "pictures".

Browser to server:
    start   new rollout: record and moment, or the image, or dream (the first frame is dreamt too); the sampler's
            settings and words (what the model is told), null: the server's; real (with the real game)
    game    name: play another game of the checkpoint; "hello" follows
    keys    held: names of the held keys; number: counts key messages, frames return it
    pause   on
    step    one frame, under the held keys or under an action; pauses first
    speed   every: ticks per frame
    real    on: run the real game beside the dream
    record  on: start or stop a recording
    edit    task: make a clip of the dream, "rewind" or "loop"

Server to browser:
    hello      the server's id, the game, its actions and keys, the limits
    wait       ahead: number of players in front, while all places are taken
    started    the rollout's seed, settings and prompt; real: the real game runs; why_no_real_game
    frame      pictures (the dream, the real game if it runs), frame, action, keys, tick, ms, together, psnr
    paused     on, reason
    real       on, real_ended, pictures (the real game at the dream's moment, if it runs)
    recording  a recording has started
    recorded   frames, the names of the files, and a place: the secret that gives access to them
    edited     task, frames and place: as "recorded", for a clip that was made of the dream
    image      the image has been received
    weights    checkpoint: newer weights have been loaded
    notice, error  text

A static page has no server: its worker speaks the same protocol (export/page/worker.js), with two messages more:
    loading    text, while files are downloaded
    failed     text: the dream cannot start or go on
Its "hello" and "started" also hold the device, and "recorded" holds the replay file in place of a place.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dreamrun.games.game import MAX_CAPTION_CHARS
from dreamrun.model.options import RANGES, ResolvedSettings, SamplerSettings

MAX_MESSAGE_BYTES = 4096  # of a JSON message
MAX_KEY_CHARS = 16  # in the name of a key
MAX_HELD_KEYS = 16  # in one message
MAX_ACTION_CHARS = 200  # in the name of an action


class BadMessage(ValueError):
    """A message that the page never sends; the text says what is wrong with it."""


def pack_pictures(header: dict[str, Any], pictures: Sequence[np.ndarray]) -> bytes:
    """A binary message: a JSON header, then the pixels of pictures uint8 (H, W, C)."""
    text = json.dumps({**header, "pictures": len(pictures)}).encode()
    return b"".join((struct.pack("<I", len(text)), text, *map(np.ndarray.tobytes, pictures)))


def unpack_pictures(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The inverse of `pack_pictures`: the header, and the bytes of all pictures."""
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def parse(text: str) -> dict[str, Any]:
    """Parse a JSON object with a type.

    Raises:
        BadMessage: the text is something else, or too long.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"the message has {len(text)} characters: at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("the message is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessage("the message is not an object with a type")
    return message


def parse_int(message: dict, name: str, min_value: int, max_value: int, default: int | None = None) -> Any:
    """An integer field; `default` if it is null or missing.

    Raises:
        BadMessage: the field is not an integer from `min_value` to `max_value`.
    """
    value = message.get(name)
    if value is None:
        return default
    if type(value) is not int or not min_value <= value <= max_value:
        raise BadMessage(f"{name} is {value!r:.40}: expected an integer from {min_value} to {max_value}")
    return value


def parse_settings(message: dict, defaults: ResolvedSettings) -> ResolvedSettings:
    """The sampler settings of a message, whose "words" are the text; `defaults` where they are null or missing.

    Raises:
        BadMessage: one of them is out of the range that players have.
    """
    given = {name: message[name] for name in RANGES if message.get(name) is not None}
    if message.get("words") is not None:
        given["text"] = parse_text(message, "words", MAX_CAPTION_CHARS)
    try:
        SamplerSettings(**given).check_in_play()
    except ValueError as error:
        raise BadMessage(str(error)) from None
    return replace(defaults, **given)


def parse_bool(message: dict, name: str) -> bool:
    """A field that is true or false. Raises BadMessage otherwise."""
    value = message.get(name)
    if type(value) is not bool:
        raise BadMessage(f"{name} is {value!r:.40}: expected true or false")
    return value


def parse_text(message: dict, name: str, max_chars: int) -> str:
    """A short text field. Raises BadMessage otherwise."""
    value = message.get(name)
    if not isinstance(value, str) or len(value) > max_chars:
        raise BadMessage(f"{name} is not a text of at most {max_chars} characters")
    return value


def parse_keys(message: dict, name: str) -> list[str]:
    """A field that is a short list of key names. Raises BadMessage otherwise."""
    keys = message.get(name)
    if not isinstance(keys, list) or len(keys) > MAX_HELD_KEYS:
        raise BadMessage(f"{name} is not a list of at most {MAX_HELD_KEYS} keys")
    return [parse_text({name: key}, name, MAX_KEY_CHARS) for key in keys]
