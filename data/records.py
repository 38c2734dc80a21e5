"""Records: up to 160 frames of one episode, and their encoding as bytes.

The format is that of the public CoinRun set:
`pickle.dumps({"raw_video": bytes, "sequence_length": int, "actions": int32 (T,)})`.
If an action space has buttons and axes, `actions` are float32 vectors (T, names).
Records may come from strangers, so a restricted unpickler reads them. It accepts arrays and plain values only.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass

import numpy as np

from data.actions import ActionSpace, unknown_action_value

# Globals that a pickled dict of bytes, numbers and arrays refers to: NumPy 1 and 2, pickle protocols 2 to 5.
_ALLOWED_GLOBALS = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"it encodes text as {encoding!r:.40}, which no record needs")
    return text.encode("latin1")


# Protocol 2 has no bytes: it stores them as text to encode, and empty bytes as a call without arguments.
_REPLACED_GLOBALS = {("_codecs", "encode"): _latin1_bytes, ("__builtin__", "bytes"): lambda: b""}


@dataclass
class Record:
    """T consecutive frames of one episode. `actions[t]` is taken at frame t and leads to frame t + 1."""

    frames: np.ndarray  # uint8 (T, H, W, C)
    actions: np.ndarray  # ids, int32 (T,), or vectors, float32 (T, names)
    rewards: np.ndarray | None = None  # float32 (T,); rewards[t] follows actions[t]
    terminal: bool | None = None  # whether the episode ended with the last action; None: unknown
    level_seed: int | None = None  # the number that the game gives to the level; None: unknown
    start_step: int = 0  # steps from the start of the level to frame 0
    prefix_actions: np.ndarray | None = None  # actions of those steps; None: there are none

    def __post_init__(self):
        if self.prefix_actions is None:
            self.prefix_actions = self.actions[:0]

    def __len__(self) -> int:
        """T, the number of frames."""
        return len(self.frames)

    def leading_actions(self) -> np.ndarray:
        """The action that leads *into* each frame, shaped as `actions`; unknown for frame 0."""
        return np.concatenate((np.full_like(self.actions[:1], unknown_action_value(self.actions)), self.actions[:-1]))


def encode_record(record: Record) -> bytes:
    """Encode a record. Readers of the public format ignore the additional keys."""
    fields = {
        "raw_video": np.ascontiguousarray(record.frames).tobytes(),
        "sequence_length": len(record),
        "actions": _to_stored_dtype(record.actions),
    }
    if record.rewards is not None:
        fields["rewards"] = record.rewards.astype(np.float32)
    if record.terminal is not None:
        fields["terminal"] = bool(record.terminal)
    if record.level_seed is not None:
        fields["level_seed"] = int(record.level_seed)
        fields["start_step"] = int(record.start_step)
        fields["prefix_actions"] = _to_stored_dtype(record.prefix_actions)
    return pickle.dumps(fields, protocol=4)


class _RecordUnpickler(pickle.Unpickler):
    """Loads only the globals that records need."""

    def find_class(self, module, name):
        if (module, name) in _REPLACED_GLOBALS:
            return _REPLACED_GLOBALS[module, name]
        if (module, name) not in _ALLOWED_GLOBALS:
            raise ValueError(f"it refers to {module}.{name}, which no record needs")
        return super().find_class(module, name)


def _to_stored_dtype(actions: np.ndarray) -> np.ndarray:
    """Ids as int32, vectors as float32."""
    return np.ascontiguousarray(actions, np.float32 if actions.dtype.kind == "f" else np.int32)


def decode_record(payload: bytes, frame_shape: tuple[int, int, int], space: ActionSpace) -> Record:
    """Decode and validate a record.

    Args:
        payload: the output of `encode_record` or of the public set's generator.
        frame_shape: (H, W, C) of the data set.
        space: the action space that the actions must belong to.

    Raises:
        ValueError: the payload is not a valid record, or it is a hostile pickle; the message says what is wrong.
    """
    try:
        fields = _RecordUnpickler(io.BytesIO(payload)).load()
    except Exception as error:  # damaged or hostile bytes can raise anything
        raise ValueError(f"not a readable record: {error}") from None
    if not isinstance(fields, dict) or not {"raw_video", "sequence_length", "actions"} <= fields.keys():
        raise ValueError("not a record: raw_video, sequence_length or actions is missing")
    length, video = fields["sequence_length"], fields["raw_video"]
    if type(length) is not int or length < 1:
        raise ValueError(f"sequence_length is {length!r:.40}: expected a positive number of frames")
    if not isinstance(video, bytes) or len(video) != length * int(np.prod(frame_shape)):
        found = len(video) if isinstance(video, bytes) else type(video).__name__
        raise ValueError(f"raw_video holds {found}, not {length} frames of {'x'.join(map(str, frame_shape))} bytes")
    actions = _decode_actions(fields["actions"], "actions", space)
    if len(actions) != length:
        raise ValueError(f"{len(actions)} actions for {length} frames")
    record = Record(np.frombuffer(video, np.uint8).reshape(length, *frame_shape), actions)
    _decode_extras(record, fields, space)
    return record


def _decode_extras(record: Record, fields: dict, space: ActionSpace) -> None:
    """Add the fields that public records lack. Raises ValueError if one is invalid."""
    if "rewards" in fields:
        rewards = fields["rewards"]
        if not isinstance(rewards, np.ndarray) or rewards.dtype.kind != "f" or rewards.shape != (len(record),):
            raise ValueError("rewards are not one number per frame")
        record.rewards = rewards.astype(np.float32)
    if "terminal" in fields:
        record.terminal = fields["terminal"] is True
    if type(fields.get("level_seed")) is int:
        record.level_seed = fields["level_seed"]
        record.prefix_actions = _decode_actions(fields.get("prefix_actions"), "prefix_actions", space)
        record.start_step = fields.get("start_step")
        if record.start_step != len(record.prefix_actions):
            raise ValueError(
                f"start_step is {record.start_step!r:.40}, but there are {len(record.prefix_actions)} prefix_actions"
            )


def _decode_actions(array, name: str, space: ActionSpace) -> np.ndarray:
    """Validated int32 ids or float32 vectors. Raises ValueError if they do not belong to the space."""
    if not space.discrete:
        width = len(space.names)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape[1:] != (width,):
            raise ValueError(f"{name} are not float vectors of {width} numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are not finite")
        return array.astype(np.float32)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"{name} are not a one-dimensional array of integers")
    if array.size and not 0 <= array.min() <= array.max() < len(space.names):
        raise ValueError(f"{name} run from {array.min()} to {array.max()}: expected 0 to {len(space.names) - 1}")
    return array.astype(np.int32)
