"""One record, up to 160 frames of one episode, <-> bytes.

The format of the public CoinRun set: `pickle.dumps({"raw_video": bytes, "sequence_length": int, "actions": int32})`;
where several buttons are held together, or axes moved, `actions` are float32 vectors.
Records are pickles from strangers: they are read by an unpickler that admits arrays and plain values only.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass

import numpy as np

from data.actions import ActionSpace, unknown_action_value

# What a pickled dict of bytes, numbers and arrays refers to, under NumPy 1 and 2, pickle protocols 2 to 5.
_ADMITTED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"it encodes text as {encoding!r:.40}, which no record needs")
    return text.encode("latin1")


# Protocol 2 has no bytes: it spells them as text to be encoded, and empty ones as a call without arguments.
_STAND_INS = {("_codecs", "encode"): _latin1_bytes, ("__builtin__", "bytes"): lambda: b""}


@dataclass
class Record:
    """Consecutive frames of one episode. `actions[t]` is taken on seeing frame t and leads to frame t + 1."""

    frames: np.ndarray  # uint8 (T, H, W, C)
    actions: np.ndarray  # ids, int32 (T,), or vectors, float32 (T, number of names in the action space)
    rewards: np.ndarray | None = None  # float32 (T,); rewards[t] follows actions[t]
    terminal: bool | None = None  # the episode ended with this record's last action
    level_seed: int | None = None  # the level, as the game numbers it
    start_step: int = 0  # steps from the level's start to frame 0
    prefix_actions: np.ndarray | None = None  # those steps' actions; None: there are none

    def __post_init__(self):
        if self.prefix_actions is None:
            self.prefix_actions = self.actions[:0]

    def __len__(self) -> int:
        """T, the number of frames."""
        return len(self.frames)

    def leading_actions(self) -> np.ndarray:
        """Shaped as `actions`: the one that leads *into* each frame; none is known for frame 0."""
        return np.concatenate((np.full_like(self.actions[:1], unknown_action_value(self.actions)), self.actions[:-1]))


def encode_record(record: Record) -> bytes:
    """The bytes of a record; readers of the public format ignore the keys they do not know."""
    fields = {
        "raw_video": np.ascontiguousarray(record.frames).tobytes(),
        "sequence_length": len(record),
        "actions": _plain(record.actions),
    }
    if record.rewards is not None:
        fields["rewards"] = record.rewards.astype(np.float32)
    if record.terminal is not None:
        fields["terminal"] = bool(record.terminal)
    if record.level_seed is not None:
        fields["level_seed"] = int(record.level_seed)
        fields["start_step"] = int(record.start_step)
        fields["prefix_actions"] = _plain(record.prefix_actions)
    return pickle.dumps(fields, protocol=4)


class _RecordUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if (module, name) not in _ADMITTED:
            raise ValueError(f"it refers to {module}.{name}, which no record needs")
        return super().find_class(module, name)


def _plain(actions: np.ndarray) -> np.ndarray:
    """Of the type that records hold."""
    return np.ascontiguousarray(actions, np.float32 if actions.dtype.kind == "f" else np.int32)


def decode_record(payload: bytes, frame_shape: tuple[int, int, int], space: ActionSpace) -> Record:
    """Read and check a record.

    Args:
        payload: what `encode_record` or the public set's generator wrote.
        frame_shape: (H, W, C) of the data set.
        space: that of the actions; ids must be some of its own.

    Raises:
        ValueError: anything but a sound record, hostile pickles included; says what is wrong.
    """
    try:
        fields = _RecordUnpickler(io.BytesIO(payload)).load()
    except Exception as error:  # whatever damaged or hostile bytes can raise: the record is bad, no more
        raise ValueError(f"not a readable record: {error}") from None
    if not isinstance(fields, dict) or not {"raw_video", "sequence_length", "actions"} <= fields.keys():
        raise ValueError("not a record: it lacks raw_video, sequence_length or actions")
    length, video = fields["sequence_length"], fields["raw_video"]
    if type(length) is not int or length < 1:
        raise ValueError(f"sequence_length is {length!r:.40}: expected a whole number of frames")
    if not isinstance(video, bytes) or len(video) != length * int(np.prod(frame_shape)):
        found = len(video) if isinstance(video, bytes) else type(video).__name__
        raise ValueError(f"raw_video holds {found}, not {length} frames of {'x'.join(map(str, frame_shape))} bytes")
    actions = _actions(fields["actions"], "actions", space)
    if len(actions) != length:
        raise ValueError(f"{len(actions)} actions for {length} frames")
    record = Record(np.frombuffer(video, np.uint8).reshape(length, *frame_shape), actions)
    _decode_extras(record, fields, space)
    return record


def _decode_extras(record: Record, fields: dict, space: ActionSpace) -> None:
    """What our own records add to the public ones."""
    if "rewards" in fields:
        rewards = fields["rewards"]
        if not isinstance(rewards, np.ndarray) or rewards.dtype.kind != "f" or rewards.shape != (len(record),):
            raise ValueError("rewards are not one number a frame")
        record.rewards = rewards.astype(np.float32)
    if "terminal" in fields:
        record.terminal = fields["terminal"] is True
    if type(fields.get("level_seed")) is int:
        record.level_seed = fields["level_seed"]
        record.prefix_actions = _actions(fields.get("prefix_actions"), "prefix_actions", space)
        record.start_step = fields.get("start_step")
        if record.start_step != len(record.prefix_actions):
            raise ValueError(
                f"start_step is {record.start_step!r:.40}, with {len(record.prefix_actions)} actions before"
            )


def _actions(array, name: str, space: ActionSpace) -> np.ndarray:
    """int32 ids, or float32 vectors."""
    if not space.discrete:
        width = len(space.names)
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape[1:] != (width,):
            raise ValueError(f"{name} are not rows of {width} numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are not finite")
        return array.astype(np.float32)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"{name} are not a row of whole numbers")
    if array.size and not 0 <= array.min() <= array.max() < len(space.names):
        raise ValueError(f"{name} run from {array.min()} to {array.max()}: expected 0 to {len(space.names) - 1}")
    return array.astype(np.int32)
