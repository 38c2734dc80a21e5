"""Tables of hostile files. Each function writes its files and returns name -> (main, arguments)."""

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import random_model

from dreamrun.data.episode_writer import EpisodeWriter
from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace
from dreamrun.model import ModelConfig
from dreamrun.model.checkpoint import hash_weights
from dreamrun.play.replay import FORMAT
from dreamrun.scripts import import_video, infer, visualize_dataset

ESCAPE = "\x1b[31mred\x07"
DEEP_JSON = "[" * 200_000
MODEL = ModelConfig(
    frame_height=16, frame_width=24, patch_size=8, dim=32, num_blocks=2, num_heads=2, window_frames=6, num_actions=3
)
SPACE = ActionSpace(("noop", "up", "down"), ((), ("UP",), ("DOWN",)), (0, 1, 2))
GAME = Game("pong", frame_shape=(16, 24, 3), actions=SPACE)
Prepared = dict[str, tuple[Any, list]]


# Field -> values that it cannot have: too large, negative, of another type, endless, or with an escape.
LARGE, NESTED = 10**9, json.loads("[" * 400 + "]" * 400)
GAME_FIELDS: dict[str, tuple] = {
    "action_names": (
        ["a"] * 10**6,
        "abc",
        [1, 2, 3],
        ["noop", ESCAPE, "down"],
        ["noop", "u" * 10**6, "down"],
        {"a": 1},
    ),
    "action_keys": (["", "UP", "DOWN"], [[], [ESCAPE], []], [[], ["A"] * 10**5, []]),
    "acting_actions": ([LARGE], ["up"]),
    "action_kinds": (["x", "y", "z"],),
    "fps": (0, 1e300, "15", float("nan"), float("inf")),
    "environment": (ESCAPE, "x" * 10**6, ["pong"]),
    "environment_options": ([1, 2], {"simple": {"a": []}}, {str(i): i for i in range(10**5)}, {ESCAPE: 1}),
}
DAMAGED: dict[str, str | bytes] = {  # whole files
    "nested deeply": DEEP_JSON,
    "nested value": '{"fps": ' + "[" * 5000 + "]" * 5000 + "}",
    "number of 10^5 digits": '{"num_actions": 1' + "0" * 10**5 + "}",
    "no object": "[]",
    "no JSON": "{",
    "no text": b"\xff\xfe\x00\x01",
    "empty": "",
    "large": " " * (65 * 2**20),
}


def one_by_one(values: dict[str, tuple]) -> dict[str, Any]:
    """A case for each value of each field."""
    return {f"{name} = {value!s:.40}": {name: value} for name, all_of in values.items() for value in all_of}


def config_cases(folder: Path) -> Prepared:
    """config.json and game.json."""
    base = folder / "base"
    random_model(MODEL, game=GAME).save_pretrained(base)
    sizes = ("frame_height", "frame_width", "num_channels", "patch_size", "num_blocks", "num_heads")
    sizes += ("window_frames", "num_actions", "num_steps")
    config_changes = one_by_one(
        dict.fromkeys(sizes, (LARGE, -256))
        | {"dim": (LARGE, 10**6, -256, 256.0, "32", None, [32], True, NESTED)}
        | {"patch_size": (0, 3), "prediction": (["v"], "v" * 10**5), ESCAPE: (1,)}
    )
    config_changes |= {
        "dim 16384 of many blocks": {"dim": 16384, "num_blocks": 256},
        "frames of 10^6": {"frame_height": 10**6, "frame_width": 10**6},
        "frames of 4096 with a patch of 1": {"frame_height": 4096, "frame_width": 4096, "patch_size": 1},
        "large cache": {"window_frames": 4096, "frame_height": 2048, "frame_width": 2048},
        "many unknown fields": {f"field{i}": i for i in range(10**5)},
        **DAMAGED,
    }
    game_changes = one_by_one(GAME_FIELDS) | {
        "scales 0": {"action_kinds": ["button"] * 2, "action_names": ["a", "b"], "action_scales": [0, 0]},
        "deep game": DEEP_JSON,
    }
    prepared = {"valid": _infer(base, folder)}
    for file, changes in (("config.json", config_changes), ("game.json", game_changes)):
        for number, (name, change) in enumerate(changes.items()):
            checkpoint = folder / f"{file}-{number}"
            shutil.copytree(base, checkpoint)
            _change_json(checkpoint / file, change)
            prepared[f"{file}: {name}"] = _infer(checkpoint, folder)
    # Sixty-three games with a long slice, and one that ends past the vector.
    names = [f"a{n}" for n in range(4096)]
    actions = {"action_names": names, "action_keys": [[] for _ in names], "acting_actions": [0]}
    games = [{"name": f"game {i}", **actions} for i in range(63)]
    checkpoint = folder / "many long slices"
    shutil.copytree(base, checkpoint)
    _change_json(checkpoint / "config.json", {"num_actions": 4097})
    last = {"name": "last", **actions, "action_offset": 2}
    _change_json(checkpoint / "game.json", json.dumps({"games": [*games, last]}))
    prepared[checkpoint.name] = _infer(checkpoint, folder)
    return prepared


def weights_cases(folder: Path) -> Prepared:
    """model.safetensors."""
    base = folder / "base"
    random_model(MODEL, game=GAME).save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    first = next(name for name, weight in weights.items() if weight.ndim == 2)
    whole = (base / "model.safetensors").read_bytes()

    def with_weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
        return lambda path: save_file(change(dict(weights)), path)

    def with_bytes(data: bytes) -> Callable[[Path], None]:
        return lambda path: path.write_bytes(data)

    def with_header(header: dict | str, data: bytes = b"") -> Callable[[Path], None]:
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
        return with_bytes(struct.pack("<Q", len(text)) + text + data)

    def one(shape: list, offsets: list, dtype: str = "F32") -> dict:
        return {first: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    changes = {
        "empty": with_bytes(b""),
        "no weights": with_weights(lambda w: {}),
        "cut in the header": with_bytes(whole[:100]),
        "cut in the data": with_bytes(whole[:-100]),
        "longer": with_bytes(whole + b"0" * 100),
        "header of 2^63 bytes": with_bytes(b"\xff" * 8 + whole[8:]),
        "header of 10^8 bytes": with_bytes(struct.pack("<Q", 10**8) + b" " * 10**6),
        "header nested deeply": with_header(DEEP_JSON),
        "shape 10^18": with_header(one([10**18], [0, 4 * 10**18])),
        "shape overflows": with_header(one([2**40, 2**40], [0, 16])),
        "shape negative": with_header(one([-1], [0, 4]), bytes(4)),
        "offsets overlap": with_header(one([4], [0, 16]) | {"b": one([4], [8, 24])[first]}, bytes(24)),
        "unknown dtype": with_header(one([4], [0, 16], "X99"), bytes(16)),
        "weight missing": with_weights(lambda w: {k: v for k, v in w.items() if k != first}),
        "weight unexpected": with_weights(lambda w: {**w, ESCAPE: torch.zeros(1)}),
        "10^4 unexpected": with_weights(lambda w: {**w, **{f"x{i}": torch.zeros(1) for i in range(10**4)}}),
        "another shape": with_weights(lambda w: {**w, first: w[first].flatten()}),
        "int8": with_weights(lambda w: {k: v.to(torch.int8) for k, v in w.items()}),
        "float8": with_weights(lambda w: {k: v.to(torch.float8_e4m3fn) for k, v in w.items()}),
        "NaN": with_weights(lambda w: {**w, first: w[first] * float("nan")}),
        "infinite": with_weights(lambda w: {**w, first: w[first] + float("inf")}),
    }
    prepared = {"valid": _infer(base, folder)}
    for number, (name, change) in enumerate(changes.items()):
        checkpoint = folder / f"weights-{number}"
        shutil.copytree(base, checkpoint)
        change(checkpoint / "model.safetensors")
        prepared[name] = _infer(checkpoint, folder)
    return prepared


def metadata_cases(folder: Path) -> Prepared:
    """metadata.json."""
    base = folder / "base"
    with EpisodeWriter(base, SPACE, environment="pong") as writer:
        for step in range(20):
            writer.add(np.zeros((16, 24, 3), np.uint8), step % 3)
    unnamed = {"action_names": ..., "action_keys": ..., "acting_actions": ...}
    numbers = (LARGE, 10**30, -1, 0, 3.5, "3", True, None)
    changes = {f"{number} actions": {**unnamed, "num_actions": number} for number in numbers} | one_by_one(GAME_FIELDS)
    shapes = ([LARGE, LARGE, 3], [-16, -24, 3], [16.0, 24.0, 3], "abc", [1] * 10**6, [16, 24, 1], [[16], [24], [3]])
    changes |= one_by_one({"frame_shape": shapes, "acting_actions": ([],)}) | {
        "other number of names": {"num_actions": 4},
        "scales NaN": {"action_kinds": ["button"] * 3, "action_scales": [float("nan")] * 3},
        "null": "null",
        **DAMAGED,
    }
    prepared = {"valid": (visualize_dataset.main, ["--data", base, "--check"])}
    for number, (name, change) in enumerate(changes.items()):
        data = folder / f"metadata-{number}"
        shutil.copytree(base, data)
        _change_json(data / "metadata.json", change)
        prepared[name] = (visualize_dataset.main, ["--data", data, "--check"])
    return prepared


def replay_cases(folder: Path) -> Prepared:
    """Replay files."""
    checkpoint = folder / "base"
    model = random_model(MODEL, game=GAME)
    model.save_pretrained(checkpoint)
    pixels = bytes(2 * 16 * 24 * 3)
    prompt = {
        "record": 0,
        "moment": 1,
        "shape": [2, 16, 24, 3],
        "frames": base64.b64encode(zlib.compress(pixels)).decode(),
        "actions": [-1, 0],
    }
    fields = {
        "format": FORMAT,
        "checkpoint": "runs/x",
        "weights_sha256": hash_weights(model),
        "seed": 1,
        "num_steps": 1,
        "guidance": 1.0,
        "context_noise": 0.02,
        "first_recorded": 0,
        "actions": [0, 1, 2],
        "prompt": prompt,
    }
    bomb = base64.b64encode(zlib.compress(bytes(10**8))).decode()
    many_actions = json.dumps({**fields, "actions": "MANY"}).replace('"MANY"', "[" + "0," * 10**7 + "0]")
    values = {
        "num_steps": (LARGE, 0, 1.5, None),
        "guidance": (1e300, float("nan"), -1, "1"),
        "context_noise": (1.0, float("inf")),
        "seed": (10**30, -1, [1]),
        "actions": ([], [9], [10**30], [0.5], ["up"], None, {"0": 1}, [[0], [1, 2]], [NESTED]),
        "first_recorded": (LARGE, -1),
        "checkpoint": ("x" * 10**6, 5),
        "format": (ESCAPE, [FORMAT]),
        "prompt": (None, [prompt]),
    }
    prompts = {
        "shape": ([LARGE, 16, 24, 3], [2, 10**6, 10**6, 3], [-2, -16, 24, 3], "2222"),
        "frames": (bomb, base64.b64encode(zlib.compress(b"x")).decode(), base64.b64encode(pixels).decode(), ESCAPE, 5),
        "actions": ([0] * 10**6,),
    }
    changes = one_by_one(values) | DAMAGED
    changes |= {f"prompt: {name}": {"prompt": prompt | change} for name, change in one_by_one(prompts).items()}
    changes |= {
        "10^7 actions": many_actions,
        "other weights": {"weights_sha256": "0" * 64, "checkpoint": "x" * 900},
        "name with an escape": {"weights_sha256": "0", "checkpoint": ESCAPE},
    }
    arguments = ["--checkpoint", checkpoint, "--output", folder / "again.mp4", "--device", "cpu", "--replay"]
    prepared: Prepared = {}
    for number, (name, change) in enumerate({"valid": {}, **changes}.items()):
        path = folder / f"replay-{number}.json"
        path.write_text(json.dumps(fields))
        _change_json(path, change)
        prepared[name] = (infer.main, [*arguments, path])
    return prepared


def actions_cases(folder: Path) -> Prepared:
    """actions.toml."""
    base = folder / "base"
    base.mkdir()
    np.savez(base / "clip.npz", frames=np.zeros((40, 16, 24, 3), np.uint8), actions=np.zeros((40, 1)))
    buttons = "[buttons]\njump = 'SPACE'\n"
    changes: dict[str, str | bytes] = {
        "10^5 buttons": "[buttons]\n" + "".join(f"b{i} = 'A'\n" for i in range(10**5)),
        "5000 buttons": "[buttons]\n" + "".join(f"b{i} = 'A'\n" for i in range(5000)),
        "10^4 keys": "[buttons]\njump = [" + "'A'," * 10**4 + "]\n",
        "keys nested deeply": "[buttons]\njump = " + "[" * 10**5 + "\n",
        "dotted key of 10^5 parts": "a." * 10**5 + "a = 1\n",
        "many dotted keys": "".join(f"k{i}" + ".a" * 150 + " = 1\n" for i in range(500)),
        "dotted table of 10^4 parts": "[" + "a." * 10**4 + "a]\n",
        "large": "# " + "x" * 10**7,
        "name with an escape": '[buttons]\n"\\u001b[31m" = "A"\n',
        "raw escape": "[buttons]\njump = '\x1b[31m'\n",
        "name of 10^4": f"[buttons]\n{'x' * 10**4} = 'A'\n",
        "buttons a list": "buttons = ['jump']\n",
        "actions text": "actions = 'jump'\n",
        "stand_still nested": "stand_still = [['jump']]\n" + buttons,
        "ignored with an escape": 'ignored = ["\\u001b[31m"]\n' + buttons,
        "recorded list": "recorded = ['a']\n" + buttons,
        "recorded to an escape": buttons + '[recorded]\na = "\\u001b"\n',
        "unknown key with an escape": '"\\u001b[31m" = 1\n' + buttons,
        "no TOML": "[buttons",
        "no text": b"\xff\xfe\x00\x01",
        "a NUL": b"[buttons]\n\x00 = 1\n",
    }
    keys = ("{a = 1}", "2020-01-01", "[1.5]", f"'{'x' * 10**4}'", '"\\u001b[31m"')
    changes |= {f"key {key:.20}": f"[buttons]\njump = {key}\n" for key in keys}
    scales = ("0", "nan", "1e300", "1" + "0" * 10**4, "'fast'", "{keys = ['A', 'B', 'C']}", "{keys = 'AD'}")
    changes |= {f"axis {scale:.20}": f"{buttons}[axes]\ndx = {scale}\n" for scale in scales}
    prepared: Prepared = {}
    for number, (name, text) in enumerate({"valid": "\ufeff" + buttons, **changes}.items()):
        path = folder / f"actions-{number}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        arguments = ["--videos", base, "--out", folder / f"set-{number}", "--size", "24x16", "--describe", path]
        prepared[name] = (import_video.main, [*arguments, "--workers", 1])
    return prepared


def _infer(checkpoint: Path, folder: Path) -> tuple[Any, list]:
    options = "--num-prompt-frames 0 --num-frames 2 --num-steps 1 --num-samples 1 --actions random --device cpu"
    return infer.main, ["--checkpoint", checkpoint, *options.split(), "--output", folder / "o.mp4"]


def _change_json(path: Path, change: dict | str | bytes) -> None:
    """Replace fields of a JSON file (... deletes one), or its whole text."""
    if isinstance(change, dict):
        values = {**json.loads(path.read_text()), **change}
        path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_bytes(change)


KINDS = {
    "config": config_cases,
    "metadata": metadata_cases,
    "weights": weights_cases,
    "replay": replay_cases,
    "actions": actions_cases,
}
