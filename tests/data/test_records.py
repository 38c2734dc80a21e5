"""Records: the round trip, the public format in all its spellings, and what is refused."""

import builtins
import contextlib
import os
import pickle
import struct
import time

import numpy as np
import pytest
from numpy._core import multiarray, numeric

from dreamrun.data.records import Record, decode_record, encode_record
from dreamrun.games.space import UNCONDITIONAL, UNKNOWN_ACTION, ActionSpace, unnamed_actions

SHAPE, NUM_ACTIONS, NUM_FRAMES = (4, 6, 3), 15, 5


def full_record(**changes) -> Record:
    rng = np.random.default_rng(0)
    values = {
        "frames": rng.integers(0, 256, (NUM_FRAMES, *SHAPE), np.uint8),
        "actions": rng.integers(0, NUM_ACTIONS, NUM_FRAMES).astype(np.int32),
        "rewards": rng.normal(size=NUM_FRAMES).astype(np.float32),
        "terminal": True,
        "level_seed": 1_234_567_890,
        "start_step": 3,
        "prefix_actions": np.array([4, 0, 14], np.int32),
    }
    return Record(**{**values, **changes})


def public_fields(**changes) -> dict:
    """What a record of the public set holds."""
    record = full_record()
    values = {"raw_video": record.frames.tobytes(), "sequence_length": NUM_FRAMES, "actions": record.actions}
    return {**values, **changes}


def decode(payload: bytes) -> Record:
    return decode_record(payload, SHAPE, unnamed_actions(NUM_ACTIONS))


@pytest.mark.parametrize("terminal", [True, False])
def test_round_trip_is_bit_identical(terminal):
    record = full_record(terminal=terminal, frames=full_record().frames[:, :, ::-1])  # not contiguous
    again = decode(encode_record(record))
    for name in ("frames", "actions", "rewards", "prefix_actions"):
        before, after = getattr(record, name), getattr(again, name)
        assert after.dtype == before.dtype and np.array_equal(after, before), name
    assert (again.terminal, again.level_seed, again.start_step) == (terminal, 1_234_567_890, 3)
    assert len(again) == NUM_FRAMES


def test_public_record_reads_and_knows_no_more_than_it_says():
    record = decode(pickle.dumps(public_fields(actions=full_record().actions.astype(np.int64))))
    assert np.array_equal(record.frames, full_record().frames)
    assert np.array_equal(record.actions, full_record().actions) and record.actions.dtype == np.int32
    assert record.rewards is record.terminal is record.level_seed is None
    assert record.start_step == 0 and len(record.prefix_actions) == 0


def test_our_records_hold_the_public_keys_as_the_public_readers_expect_them():
    fields = pickle.loads(encode_record(full_record()))
    assert isinstance(fields["raw_video"], bytes) and fields["sequence_length"] == NUM_FRAMES
    assert np.array_equal(np.frombuffer(fields["raw_video"], np.uint8).reshape(-1, *SHAPE), full_record().frames)
    assert fields["actions"].dtype == np.int32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_pickles_of_either_numpy_and_any_protocol_are_read(monkeypatch, ours, core, protocol):
    """NumPy 1 and 2 name the two functions that arrays are rebuilt with by different modules."""
    record = full_record(start_step=0, prefix_actions=np.zeros(0, np.int32))
    fields = pickle.loads(encode_record(record)) if ours else public_fields()
    monkeypatch.setattr(multiarray._reconstruct, "__module__", f"{core}.multiarray")
    monkeypatch.setattr(numeric._frombuffer, "__module__", f"{core}.numeric")
    payload = pickle.dumps(fields, protocol)
    assert f"{core}.".encode() in payload
    again = decode(payload)
    assert np.array_equal(again.frames, record.frames) and np.array_equal(again.actions, record.actions)
    assert again.level_seed == (record.level_seed if ours else None)


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("spot", ["instead", "beside", "actions", "inside an array"])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, builtins.open, os.mkdir])
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, function, spot):
    victim = tmp_path / "victim"
    code = {"system": f"touch {victim}", **dict.fromkeys(("eval", "exec"), f"open({str(victim)!r}, 'w')")}
    call = _Calls(function, code.get(function.__name__, str(victim)), *(["w"] if function is open else []))
    payloads = {
        "instead": call,
        "beside": public_fields(more=call),
        "actions": public_fields(actions=call),
        "inside an array": public_fields(actions=np.array([call] * NUM_FRAMES, object)),
    }
    payload = pickle.dumps(payloads[spot])
    with pytest.raises(ValueError, match=f"refers to .*{function.__name__}"):
        decode(payload)
    assert not victim.exists()
    pickle.loads(payload)  # and it would have done something
    assert victim.exists()


@pytest.mark.parametrize("name", ["numpy.load", "numpy.core.multiarray.fromfile", "builtins.getattr", "codecs.decode"])
def test_only_what_arrays_need_is_admitted(name):
    module, function = name.rsplit(".", 1)
    with pytest.raises(ValueError, match=f"refers to {name}"):
        decode(f"c{module}\n{function}\n.".encode())
    with pytest.raises(ValueError, match="encodes text as 'zip'"):  # that of protocol 2 can only be its own
        decode(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.")


NOT_IDS = "actions are not a one-dimensional array of integers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": NUM_FRAMES + 1}, "raw_video holds 360, not 6 frames of 4x6x3"),
        *(({"sequence_length": value}, "is not an integer from 1") for value in (0, 5.0, "5", True, 10**18, [[]] * 9)),
        ({"raw_video": full_record().frames.tobytes()[:-1]}, "raw_video holds 359"),
        ({"raw_video": full_record().frames.astype(np.int16)}, "raw_video is int16"),
        ({"raw_video": full_record().frames.transpose(0, 2, 1, 3)}, r"raw_video is uint8 \(5, 6, 4, 3\): expected"),
        ({"raw_video": full_record().frames[1:]}, "raw_video holds 288, not 5 frames"),
        ({"actions": np.zeros(NUM_FRAMES - 1, np.int32)}, "4 actions for 5 frames"),
        ({"actions": np.zeros((NUM_FRAMES, 2), np.int32)}, NOT_IDS),
        *(
            ({"actions": actions}, NOT_IDS)
            for actions in ([0] * 4, [0.0] * 5, [True] * 5, [[0], [0, 1], [], [], []], "a")
        ),
        ({"actions": np.zeros((), np.int32)}, NOT_IDS),
        *(({"actions": np.zeros(NUM_FRAMES, kind)}, NOT_IDS) for kind in ("f4", "?", "O", "V4", "U4", "m8[s]")),
        ({"actions": np.zeros(NUM_FRAMES, [("a", "i4"), ("b", "i4")])}, NOT_IDS),
        ({"actions": np.full(NUM_FRAMES, NUM_ACTIONS, np.int32)}, "actions run from 15 to 15: expected 0 to 14"),
        ({"actions": np.array([0, 1, 2, 3, UNKNOWN_ACTION], np.int32)}, "actions run from -1 to 3"),
        ({"actions": np.full(NUM_FRAMES, 2**63, np.uint64)}, "actions run from 9223372036854775808"),
        ({"rewards": np.zeros(NUM_FRAMES - 1, np.float32)}, "rewards are not one number per frame"),
        ({"rewards": np.array([0.0] * NUM_FRAMES, object)}, "rewards are not one number per frame"),
        ({"level_seed": 2**63}, "level_seed is not an integer from"),
        ({"level_seed": 7}, "start_step is not an integer from"),
        ({"level_seed": 7, "start_step": 10**12}, "start_step is not an integer from"),
        ({"level_seed": 7, "start_step": 0}, "prefix_actions are not a one-dim"),
        ({"level_seed": 7, "start_step": 3, "prefix_actions": np.zeros(2, np.int32)}, "2 prefix_actions for 3 steps"),
        ({"level_seed": 7, "start_step": 1, "prefix_actions": np.array([99])}, "prefix_actions run from 99 to 99"),
        *(({"more": {key: 8, "b": 1}}, "a key is not text") for key in (7, (1, 2))),
        ({"more": {1, 2}}, "not a readable record"),
    ],
)
def test_unsound_records_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        decode(pickle.dumps(public_fields(**changes)))


def record_pickle(**opcodes: bytes) -> bytes:
    """A record whose values are given as opcodes of pickle."""
    values = {
        "raw_video": b"C\x48" + bytes(72), "sequence_length": b"K\x01", "actions": b"N", **opcodes,
    }  # fmt: skip
    items = (b"X" + struct.pack("<I", len(name)) + name.encode() + code for name, code in values.items())
    return b"\x80\x04}(" + b"".join(items) + b"u."


def array_pickle(shape: int) -> bytes:
    """The opcodes of an array of `shape` integers, all of them the same four bytes."""
    number = b"\x8a\x08" + struct.pack("<q", shape)
    return b"cnumpy\nndarray\n((" + number + b"tX\x02\x00\x00\x00i4C\x04" + bytes(4) + b"K\x00(K\x00ttR"


def seeded(**opcodes: bytes) -> bytes:
    """A record that knows its level."""
    return record_pickle(actions=array_pickle(1), level_seed=b"K\x01", **opcodes)


LONG_INTEGER = b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6
NESTED, DOUBLED = b")" + b"\x85" * 200_000, b")" + b"2\x86" * 60  # tuples in tuples: so deep, and 2^60 of them


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x80\x04}" + NESTED + b"K\x01s.", "not a readable record"),
        (b"\x80\x04}" + DOUBLED + b"K\x01s.", "not a readable record"),
        (b"\x80\x04}(" + NESTED + b"K\x01u.", "a key is not text"),
        (b"\x80\x04}(" + DOUBLED + b"K\x01u.", "a key is not text"),
        (b"\x80\x04(" + DOUBLED + b"K\x01d.", "not a readable record"),
        (b"\x80\x04\x8f(" + DOUBLED + b"\x90.", "not a readable record"),
        (b"\x80\x04(" + DOUBLED + b"\x91.", "not a readable record"),
        (record_pickle(sequence_length=NESTED), "sequence_length is not an integer"),
        (record_pickle(sequence_length=DOUBLED), "sequence_length is not an integer"),
        (record_pickle(sequence_length=LONG_INTEGER), "sequence_length is not an integer"),
        (record_pickle(actions=array_pickle(10**12)), "1000000000000 actions for 1 frames"),
        (record_pickle(actions=array_pickle(-2)), "not a readable record"),
        (
            record_pickle(raw_video=array_pickle(10**12).replace(b"i4", b"u1"), sequence_length=b"K\x01"),
            "raw_video holds ndarray",
        ),
        (record_pickle(actions=b"](" + b"](" + b"K\x00" * 10**5 + b"e" + b"e"), "not a one-dimensional array"),
        (record_pickle(actions=b"cnumpy.core.multiarray\nscalar\n(NNtR"), "no number"),
        (record_pickle(actions=b"cnumpy\nndarray\n(\x8a\x06" + b"\x7f" * 6 + b"\x85tR"), "not a readable record"),
        (
            seeded(start_step=b"\x8a\x05" + b"\x7f" * 5, prefix_actions=array_pickle(10**12)),
            "start_step is not an integer",
        ),
        (seeded(start_step=DOUBLED, prefix_actions=array_pickle(1)), "start_step is not an integer"),
        (record_pickle(actions=b"cnumpy\nndarray\n}(X\x01\x00\x00\x00aK\x01ub"), "it changes a type"),
        (record_pickle(actions=b"c_codecs\nencode\n}(X\x01\x00\x00\x00aK\x01ub"), "it changes a function"),
        (b"\x80\x04P1\n.", "not a readable record"),
        (b"\x80\x04\x82\x01.", "not a readable record"),
    ],
)
def test_hostile_pickles_take_no_time_and_no_memory(payload, message):
    """Keys that take forever to hash or overflow the stack, values without end, arrays of few bytes and any length."""
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as info:
        decode(payload)
    assert time.process_time() - start < 20 and len(str(info.value)) < 300


@pytest.mark.parametrize(
    "payload",
    [
        *(pickle.dumps({name: value for name, value in public_fields().items() if name != missing})
          for missing in ("raw_video", "sequence_length")),
        *map(pickle.dumps, (None, [1, 2], "text", {}, np.zeros(3, np.int32))),
        *(b"", b"\x80", b"hello, this is text", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f"),
    ],
)  # fmt: skip
def test_what_is_not_a_record_is_refused(payload):
    with pytest.raises(ValueError, match=r"not a record: raw_video or sequence_length|not a readable record"):
        decode(payload)


def test_truncated_bytes_are_refused_wherever_they_end():
    payload = encode_record(full_record())
    for end in range(0, len(payload), 7):
        with pytest.raises(ValueError, match="not a"):
            decode(payload[:end])


def test_damaged_bytes_never_raise_anything_but_value_errors():
    payload, rng = bytearray(encode_record(full_record())), np.random.default_rng(0)
    for at in rng.integers(0, len(payload), 500):
        damaged = payload.copy()
        damaged[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(ValueError):  # a flipped pixel is still a record
            decode(bytes(damaged))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {"actions": full_record().actions[:, None]},
        {"actions": full_record().actions.tolist()},
        {"actions": full_record().actions[:, None].tolist()},
        {"actions": [*full_record().actions]},
        {"actions": tuple(full_record().actions.astype(np.uint8))},
        {"sequence_length": np.int64(NUM_FRAMES)},
        {"raw_video": full_record().frames},
        {"raw_video": full_record().frames.ravel()},
        {"raw_video": np.asfortranarray(full_record().frames)},
        {"rewards": full_record().rewards.tolist()},
    ],
)  # fmt: skip
def test_what_other_generators_write_is_read(changes, protocol):
    expected = full_record()
    record = decode(pickle.dumps(public_fields(**changes), protocol))
    assert np.array_equal(record.frames, expected.frames)
    assert record.actions.dtype == np.int32 and np.array_equal(record.actions, expected.actions)
    assert record.rewards is None or np.array_equal(record.rewards, expected.rewards)


@pytest.mark.parametrize("changes", [{"actions": None}, {}])
def test_records_without_actions_have_unknown_ones(changes):
    """Or the only one that there is."""
    fields = public_fields()
    del fields["actions"]
    payload = pickle.dumps({**fields, **changes})
    assert (decode(payload).actions == UNKNOWN_ACTION).all() and len(decode(payload).actions) == NUM_FRAMES
    assert np.isnan(decode_record(payload, SHAPE, CONTROLS).actions).all()
    assert not decode_record(payload, SHAPE, UNCONDITIONAL).actions.any()


def test_leading_actions_are_one_frame_late():
    record = full_record(actions=np.array([3, 1, 4, 1, 5], np.int32))
    assert record.leading_actions().tolist() == [UNKNOWN_ACTION, 3, 1, 4, 1]
    assert record.leading_actions().dtype == np.int32


# Buttons held together, and axes

CONTROLS = ActionSpace(("jump", "dx"), (("SPACE",), ()), (0, 1), ("button", "axis"), (1.0, 20.0))


def vector_record(**changes) -> Record:
    actions = np.random.default_rng(0).normal(size=(NUM_FRAMES, 2)).astype(np.float32)
    return full_record(actions=actions, start_step=2, prefix_actions=actions[1:3], **changes)


def test_vectors_come_back_bit_identical():
    record = vector_record()
    again = decode_record(encode_record(record), SHAPE, CONTROLS)
    for name in ("frames", "actions", "prefix_actions"):
        before, after = getattr(record, name), getattr(again, name)
        assert after.dtype == before.dtype and np.array_equal(after, before), name
    leading = again.leading_actions()
    assert np.isnan(leading[0]).all() and np.array_equal(leading[1:], record.actions[:-1])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(NUM_FRAMES, np.int32), "actions are not float vectors of 2 numbers"),
        (np.zeros((NUM_FRAMES, 3), np.float32), "actions are not float vectors of 2 numbers"),
        (np.full((NUM_FRAMES, 2), np.nan, np.float32), "actions are not finite"),
        (np.full((NUM_FRAMES, 2), 1e300), "actions are not finite"),
        (np.zeros((NUM_FRAMES, 2, 1), np.float32), "actions are not float vectors of 2 numbers"),
        (np.zeros((NUM_FRAMES, 2), np.complex64), "actions are not float vectors of 2 numbers"),
        (np.zeros((NUM_FRAMES, 2), object), "actions are not float vectors of 2 numbers"),
        (np.zeros((NUM_FRAMES + 1, 2), np.float32), "6 actions for 5 frames"),
    ],
)
def test_unsound_vectors_say_what_is_wrong(actions, message):
    with pytest.raises(ValueError, match=message):
        decode_record(pickle.dumps(public_fields(actions=actions)), SHAPE, CONTROLS)
