"""Records: frames of one episode, and their encoding as bytes.

The format is that of the public CoinRun set:
`pickle.dumps({"raw_video": bytes, "sequence_length": int, "actions": int32 (T,)})`.
If an action space has buttons and axes, `actions` are float32 vectors (T, names).
Other generators leave out the actions, or write lists, NumPy integers, actions (T, 1), or the video as an array.
Records may come from strangers, so a restricted unpickler reads them. It accepts arrays and plain values only.
"""

import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dreamrun.games.game import check_caption
from dreamrun.games.space import ActionSpace, unknown_action_value

MAX_STORED_FRAMES = 2**31 - 1
MAX_PREFIX_ACTIONS = 10**6  # from the start of the level to the record
MAX_LEVEL_SEED = 2**63 - 1
MAX_LISTED = 10**7  # numbers in a list of lists


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"it encodes text as {encoding!r:.40}, which no record needs")
    return text.encode("latin1")


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or not isinstance(data, bytes):
        raise ValueError("it holds a NumPy value that is no number")
    return np.frombuffer(data, dtype, 1)[0]


# What a pickled dict of bytes, numbers and arrays refers to: NumPy 1 and 2, pickle protocols 2 to 5.
# Protocol 2 has no bytes: it stores them as text to encode, and empty bytes as a call without arguments.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1_bytes,
    ("__builtin__", "bytes"): lambda: b"",
}
for _core in ("numpy.core", "numpy._core"):
    _GLOBALS[f"{_core}.multiarray", "_reconstruct"] = np._core.multiarray._reconstruct
    _GLOBALS[f"{_core}.multiarray", "scalar"] = _scalar
    _GLOBALS[f"{_core}.numeric", "_frombuffer"] = np._core.numeric._frombuffer


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
    caption: str = ""  # what is played, in words; empty: what the data set's metadata say

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
    if record.caption:
        fields["caption"] = check_caption(record.caption)
    return pickle.dumps(fields, protocol=4)


class _RecordUnpickler(pickle._Unpickler):
    """Loads only what records need: plain values and arrays, in dicts with text as keys.

    This is Python's own unpickler, of the standard library. It takes 0.1 ms more for a record than C's, which hashes
    every key: tuples in tuples as a key overflow its stack, or take forever.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)
    for _opcode in (pickle.DICT, pickle.SETITEM, pickle.ADDITEMS, pickle.FROZENSET):  # hash, and are not needed
        del dispatch[_opcode[0]]

    def find_class(self, module, name):
        if (module, name) not in _GLOBALS:
            raise ValueError(f"it refers to {module}.{name}, which no record needs")
        return _GLOBALS[module, name]

    def load_setitems(self):
        if any(type(key) is not str for key in self.stack[::2]):
            raise ValueError("a key is not text")
        super().load_setitems()

    def load_build(self):
        if not isinstance(self.stack[-2], np.ndarray | np.dtype):
            raise ValueError(f"it changes a {type(self.stack[-2]).__name__}, which no record needs")
        super().load_build()

    dispatch |= {pickle.SETITEMS[0]: load_setitems, pickle.BUILD[0]: load_build}


def _to_stored_dtype(actions: np.ndarray) -> np.ndarray:
    """Ids as int32, vectors as float32."""
    return np.ascontiguousarray(actions, np.float32 if actions.dtype.kind == "f" else np.int32)


def decode_record(payload: bytes, frame_shape: tuple[int, int, int], space: ActionSpace) -> Record:
    """Decode and validate a record of `encode_record` or of the public set, for a data set of frames (H, W, C)."""
    try:
        fields = _RecordUnpickler(io.BytesIO(payload)).load()
    except Exception as error:  # damaged or hostile bytes can raise anything
        raise ValueError(f"not a readable record: {error}") from None
    if not isinstance(fields, dict) or not {"raw_video", "sequence_length"} <= fields.keys():
        raise ValueError("not a record: raw_video or sequence_length is missing")
    length, video = _integer(fields, "sequence_length", 1, MAX_STORED_FRAMES), fields["raw_video"]
    if isinstance(video, np.ndarray) and video.nbytes <= len(payload):  # a few bytes can be an array of any size
        if video.dtype != np.uint8 or video.shape[1:] not in ((), tuple(frame_shape)):
            raise ValueError(f"raw_video is {video.dtype} {video.shape}: expected uint8 frames of {frame_shape}")
        video = video.tobytes()
    if not isinstance(video, bytes) or len(video) != length * int(np.prod(frame_shape)):
        found = len(video) if isinstance(video, bytes) else type(video).__name__
        raise ValueError(f"raw_video holds {found}, not {length} frames of {'x'.join(map(str, frame_shape))} bytes")
    if fields.get("actions") is None:
        actions = np.zeros(length, np.int32) if space.unconditional else space.unknown(length)
    else:
        actions = _decode_actions(fields["actions"], "actions", space, length)
    record = Record(np.frombuffer(video, np.uint8).reshape(length, *frame_shape), actions)
    # What public records lack:
    if "rewards" in fields:
        record.rewards = _decode_rewards(fields["rewards"], length)
    if "terminal" in fields:
        record.terminal = fields["terminal"] is True
    if "caption" in fields:
        record.caption = check_caption(fields["caption"])
    if fields.get("level_seed") is not None:
        record.level_seed = _integer(fields, "level_seed", -MAX_LEVEL_SEED, MAX_LEVEL_SEED)
        record.start_step = _integer(fields, "start_step", 0, MAX_PREFIX_ACTIONS)
        prefix_actions = fields.get("prefix_actions")
        record.prefix_actions = _decode_actions(prefix_actions, "prefix_actions", space, record.start_step)
    return record


def _integer(fields: dict, name: str, lowest: int, highest: int) -> int:
    value = fields.get(name)
    value = value.item() if isinstance(value, np.integer) else value
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{name} is not an integer from {lowest} to {highest}")  # the text of some values is endless
    return value


def _to_array(values: Any, length: int) -> Any:
    """A list of numbers, or of rows of as many numbers each, as an array (length, ...); anything else as it is."""
    rows = values if isinstance(values, list | tuple) and len(values) == length else ()
    if sum(len(row) for row in rows if isinstance(row, list | tuple)) > MAX_LISTED:  # all could be one long row
        return values
    flat = [number for row in rows for number in (row if isinstance(row, list | tuple) else (row,))]
    if not flat or not all(type(number) in (int, float) or isinstance(number, np.number) for number in flat):
        return values
    try:
        return np.array(values)
    except (ValueError, OverflowError):  # rows that differ in length
        return values


def _decode_rewards(rewards: Any, length: int) -> np.ndarray:
    rewards = _to_array(rewards, length)
    if not isinstance(rewards, np.ndarray) or rewards.dtype.kind != "f" or rewards.shape != (length,):
        raise ValueError("rewards are not one number per frame")
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite
        return rewards.astype(np.float32)


def _decode_actions(array: Any, name: str, space: ActionSpace, length: int) -> np.ndarray:
    """Validated int32 ids (length,) or float32 vectors (length, names)."""
    array = _to_array(array, length)
    if isinstance(array, np.ndarray) and array.ndim and len(array) != length:  # first: a few bytes can be endless
        raise ValueError(f"{len(array)} {name} for {length} {'frames' if name == 'actions' else 'steps'}")
    if not space.discrete:
        width = len(space.names)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.shape[1:] != (width,):
            raise ValueError(f"{name} are not float vectors of {width} numbers")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are not finite")
        return array
    if isinstance(array, np.ndarray) and array.shape == (length, 1):
        array = array[:, 0]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"{name} are not a one-dimensional array of integers")
    if array.size and not 0 <= array.min() <= array.max() < len(space.names):
        raise ValueError(f"{name} run from {array.min()} to {array.max()}: expected 0 to {len(space.names) - 1}")
    return array.astype(np.int32)
