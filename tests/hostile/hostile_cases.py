"""Tables of hostile files. Each function writes its files and returns name -> (main, config class, arguments)."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import random_model

from dreamrun.data.episode_writer import EpisodeWriter
from dreamrun.data.importing.importer import ImportVideoConfig
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
Prepared = dict[str, tuple[Any, type, list]]


def config_cases(folder: Path) -> Prepared:
    """config.json and game.json."""
    base = folder / "base"
    random_model(MODEL, game=GAME).save_pretrained(base)
    sizes = ("frame_height", "frame_width", "num_channels", "patch_size", "dim", "num_blocks", "num_heads")
    sizes += ("window_frames", "num_actions", "num_steps")
    config_changes: dict[str, Any] = {f"{name} 10^9": {name: 10**9} for name in sizes}
    config_changes |= {f"{name} -256": {name: -256} for name in sizes}
    config_changes |= {f"{name} 256.0": {name: 256.0} for name in sizes[3:6]}
    config_changes |= {
        "dim 10^6": {"dim": 10**6},
        "dim 10^6 of many blocks": {"dim": 16384, "num_blocks": 256},
        "frames of 10^6": {"frame_height": 10**6, "frame_width": 10**6},
        "frames of 4096 with a patch of 1": {"frame_height": 4096, "frame_width": 4096, "patch_size": 1},
        "large cache": {"window_frames": 4096, "frame_height": 2048, "frame_width": 2048},
        "heads 0": {"num_heads": 0},
        "patch 0": {"patch_size": 0},
        "patch 3": {"patch_size": 3},
        "blocks true": {"num_blocks": True},
        "dim as text": {"dim": "32"},
        "dim null": {"dim": None},
        "dim list": {"dim": [32]},
        "prediction list": {"prediction": ["v"]},
        "prediction other": {"prediction": "v" * 10**5},
        "unknown field": {ESCAPE: 1},
        "many unknown fields": {f"field{i}": i for i in range(10**5)},
        "number of 10^5 digits": '{"dim": 1' + "0" * 10**5 + "}",
        "nested deeply": '{"dim": ' + DEEP_JSON,
        "nested value": {"dim": json.loads("[" * 400 + "]" * 400)},
        "no object": "[]",
        "no JSON": "{",
        "no text": b"\xff\xfe\x00\x01",
        "empty": "",
        "infinity": '{"dim": Infinity}',
        "large": " " * 10**7,
    }
    game_changes: dict[str, Any] = {
        "fps 0": {"fps": 0},
        "fps NaN": '{"fps": NaN}',
        "fps 1e300": {"fps": 1e300},
        "fps as text": {"fps": "15"},
        "names 10^6": {"action_names": ["a"] * 10**6},
        "names of numbers": {"action_names": [1, 2, 3]},
        "names as text": {"action_names": "abc"},
        "name with an escape": {"action_names": ["noop", ESCAPE, "down"]},
        "name of 10^6": {"action_names": ["noop", "u" * 10**6, "down"]},
        "keys as text": {"action_keys": ["a", "b", "c"]},
        "keys null": {"action_keys": None},
        "acting 10^9": {"acting_actions": [10**9]},
        "acting as text": {"acting_actions": ["up"]},
        "kinds other": {"action_kinds": ["x", "y", "z"]},
        "scales 0": {"action_kinds": ["button"] * 2, "action_names": ["a", "b"], "action_scales": [0, 0]},
        "environment with an escape": {"environment": ESCAPE},
        "environment list": {"environment": ["pong"]},
        "options list": {"environment_options": [1, 2]},
        "option object": {"environment_options": [["simple", {"a": 1}]]},
        "game nested deeply": DEEP_JSON,
    }
    prepared = {"valid": _infer(base, folder)}
    for file, changes in (("config.json", config_changes), ("game.json", game_changes)):
        for number, (name, change) in enumerate(changes.items()):
            checkpoint = folder / f"{file}-{number}"
            shutil.copytree(base, checkpoint)
            _change_json(checkpoint / file, change)
            prepared[name] = _infer(checkpoint, folder)
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
        "text": with_bytes(b"not a checkpoint" * 100),
        "zeros": with_bytes(bytes(10**6)),
        "header of 2^63 bytes": with_bytes(b"\xff" * 8 + whole[8:]),
        "header of 10^8 bytes": with_bytes(struct.pack("<Q", 10**8) + b" " * 10**6),
        "header of spaces": with_bytes(struct.pack("<Q", 2**24) + b" " * 2**24),
        "header nested deeply": with_header(DEEP_JSON),
        "shape 10^18": with_header(one([10**18], [0, 4 * 10**18])),
        "shape overflows": with_header(one([2**40, 2**40], [0, 16])),
        "shape negative": with_header(one([-1], [0, 4]), bytes(4)),
        "offsets overlap": with_header(one([4], [0, 16]) | {"b": one([4], [8, 24])[first]}, bytes(24)),
        "offsets backwards": with_header(one([4], [16, 0]), bytes(16)),
        "unknown dtype": with_header(one([4], [0, 16], "X99"), bytes(16)),
        "weight missing": with_weights(lambda w: {k: v for k, v in w.items() if k != first}),
        "weight unexpected": with_weights(lambda w: {**w, ESCAPE: torch.zeros(1)}),
        "names of 10^5": with_weights(lambda w: {**w, **{"x" * 10**5 + str(i): torch.zeros(1) for i in range(9)}}),
        "10^4 unexpected": with_weights(lambda w: {**w, **{f"x{i}": torch.zeros(1) for i in range(10**4)}}),
        "another shape": with_weights(lambda w: {**w, first: w[first].flatten()}),
        "large shape": with_weights(lambda w: {**w, first: torch.zeros(10**6)}),
        "int8": with_weights(lambda w: {k: v.to(torch.int8) for k, v in w.items()}),
        "int64": with_weights(lambda w: {k: v.to(torch.int64) for k, v in w.items()}),
        "bool": with_weights(lambda w: {k: v.to(torch.bool) for k, v in w.items()}),
        "complex": with_weights(lambda w: {k: v.to(torch.complex64) for k, v in w.items()}),
        "float8": with_weights(lambda w: {k: v.to(torch.float8_e4m3fn) for k, v in w.items()}),
        "one of int32": with_weights(lambda w: {**w, first: w[first].to(torch.int32)}),
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
    named = {"num_actions": 3, "action_keys": [[], ["UP"], ["DOWN"]], "acting_actions": [0, 1, 2]}
    unnamed = {"action_names": ..., "action_keys": ..., "acting_actions": ...}
    changes: dict[str, Any] = {
        "10^9 actions": {**unnamed, "num_actions": 10**9},
        "10^30 actions": {**unnamed, "num_actions": 10**30},
        "-1 actions": {**unnamed, "num_actions": -1},
        "0 actions": {**unnamed, "num_actions": 0},
        "3.5 actions": {**unnamed, "num_actions": 3.5},
        "actions as text": {**unnamed, "num_actions": "3"},
        "actions true": {**unnamed, "num_actions": True},
        "actions null": {**unnamed, "num_actions": None},
        "other number of names": {"num_actions": 4},
        "10^6 names": {**named, "action_names": ["a"] * 10**6, "num_actions": 10**6},
        "names as text": {**named, "action_names": "abc"},
        "name with an escape": {**named, "action_names": ["noop", ESCAPE, "down"]},
        "name of 10^6": {**named, "action_names": ["noop", "u" * 10**6, "down"]},
        "names of numbers": {**named, "action_names": [0, 1, 2]},
        "names object": {**named, "action_names": {"a": 1, "b": 2, "c": 3}},
        "keys as text": {"action_keys": ["", "UP", "DOWN"]},
        "key with an escape": {"action_keys": [[], [ESCAPE], []]},
        "10^5 keys": {"action_keys": [[], ["A"] * 10**5, []]},
        "acting 10^9": {"acting_actions": [10**9]},
        "acting as text": {"acting_actions": ["up"]},
        "acting none": {"acting_actions": []},
        "kinds other": {"action_kinds": ["x"] * 3, "action_scales": [1, 1, 1]},
        "scales NaN": '{"action_names": ["a"], "action_keys": [[]], "acting_actions": [0], "num_actions": 1, '
        '"action_kinds": ["button"], "action_scales": [NaN]}',
        "frames of 10^9": {"frame_shape": [10**9, 10**9, 3]},
        "frames of -1": {"frame_shape": [-16, -24, 3]},
        "frames of 16.0": {"frame_shape": [16.0, 24.0, 3]},
        "frames as text": {"frame_shape": "abc"},
        "frames with 10^6 sides": {"frame_shape": [1] * 10**6},
        "frames of 1 channel": {"frame_shape": [16, 24, 1]},
        "frames nested": {"frame_shape": [[16], [24], [3]]},
        "fps 0": {"fps": 0},
        "fps 1e300": {"fps": 1e300},
        "fps infinite": '{"fps": Infinity}',
        "fps as text": {"fps": "15"},
        "fps true": {"fps": True},
        "environment with an escape": {"environment": ESCAPE},
        "environment of 10^6": {"environment": "x" * 10**6},
        "environment number": {"environment": 5},
        "options number": {"environment_options": 3},
        "options nested": {"environment_options": {"simple": {"a": []}}},
        "10^5 options": {"environment_options": {str(i): i for i in range(10**5)}},
        "option with an escape": {"environment_options": {ESCAPE: 1}},
        "nested deeply": DEEP_JSON,
        "nested value": '{"fps": ' + "[" * 5000 + "]" * 5000 + "}",
        "number of 10^5 digits": '{"num_actions": 1' + "0" * 10**5 + "}",
        "no object": "[]",
        "null": "null",
        "no JSON": "{",
        "empty": "",
        "no text": b"\xff\xfe\x00\x01",
        "large": " " * (65 * 2**20),
    }
    prepared = {"valid": (visualize_dataset.main, visualize_dataset.VisualizeConfig, ["--data", base, "--check"])}
    for number, (name, change) in enumerate(changes.items()):
        data = folder / f"metadata-{number}"
        shutil.copytree(base, data)
        _change_json(data / "metadata.json", change)
        prepared[name] = (visualize_dataset.main, visualize_dataset.VisualizeConfig, ["--data", data, "--check"])
    return prepared


def replay_cases(folder: Path) -> Prepared:
    """Replay files."""
    import base64
    import zlib

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
    changes: dict[str, Any] = {
        "10^9 steps": {"num_steps": 10**9},
        "0 steps": {"num_steps": 0},
        "steps 1.5": {"num_steps": 1.5},
        "steps null": {"num_steps": None},
        "guidance 1e300": {"guidance": 1e300},
        "guidance NaN": json.dumps({**fields, "guidance": float("nan")}),
        "guidance negative": {"guidance": -1},
        "guidance as text": {"guidance": "1"},
        "context noise 1": {"context_noise": 1.0},
        "context noise infinite": json.dumps({**fields, "context_noise": float("inf")}),
        "seed 10^30": {"seed": 10**30},
        "seed negative": {"seed": -1},
        "seed list": {"seed": [1]},
        "10^7 actions": json.dumps({**fields, "actions": ...}, default=lambda _: 0).replace(
            '"actions": 0', '"actions": [' + "0," * 10**7 + "0]", 1
        ),
        "no actions": {"actions": []},
        "action 9": {"actions": [9]},
        "action 10^30": {"actions": [10**30]},
        "action 0.5": {"actions": [0.5]},
        "action as text": {"actions": ["up"]},
        "actions null": {"actions": None},
        "actions object": {"actions": {"0": 1}},
        "actions ragged": {"actions": [[0], [1, 2]]},
        "actions nested": {"actions": [json.loads("[" * 200 + "]" * 200)]},
        "first recorded 10^9": {"first_recorded": 10**9},
        "first recorded negative": {"first_recorded": -1},
        "other weights": {"weights_sha256": "0" * 64, "checkpoint": "x" * 900},
        "name with an escape": {"weights_sha256": "0", "checkpoint": ESCAPE},
        "name of 10^6": {"checkpoint": "x" * 10**6},
        "name number": {"checkpoint": 5},
        "other format": {"format": ESCAPE},
        "format list": {"format": [FORMAT]},
        "prompt null": {"prompt": None},
        "prompt list": {"prompt": [prompt]},
        "prompt of 10^9 frames": {"prompt": {**prompt, "shape": [10**9, 16, 24, 3]}},
        "prompt of other sizes": {"prompt": {**prompt, "shape": [2, 10**6, 10**6, 3]}},
        "prompt of negative sizes": {"prompt": {**prompt, "shape": [-2, -16, 24, 3]}},
        "prompt shape as text": {"prompt": {**prompt, "shape": "2222"}},
        "prompt bomb": {"prompt": {**prompt, "frames": bomb}},
        "prompt short": {"prompt": {**prompt, "frames": base64.b64encode(zlib.compress(b"x")).decode()}},
        "prompt not compressed": {"prompt": {**prompt, "frames": base64.b64encode(pixels).decode()}},
        "prompt no base64": {"prompt": {**prompt, "frames": ESCAPE}},
        "prompt frames number": {"prompt": {**prompt, "frames": 5}},
        "prompt of 10^6 actions": {"prompt": {**prompt, "actions": [0] * 10**6}},
        "nested deeply": DEEP_JSON,
        "no object": "[]",
        "no JSON": "{",
        "empty": "",
        "large": " " * (65 * 2**20),
    }
    arguments = ["--checkpoint", checkpoint, "--output", folder / "again.mp4", "--device", "cpu", "--replay"]
    prepared: Prepared = {}
    for number, (name, change) in enumerate({"valid": {}, **changes}.items()):
        path = folder / f"replay-{number}.json"
        path.write_text(json.dumps(fields))
        _change_json(path, change)
        prepared[name] = (infer.main, infer.InferConfig, [*arguments, path])
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
        "key with an escape": "[buttons]\njump = '\\u001b[31m'\n".replace("'", '"'),
        "name with an escape": '[buttons]\n"\\u001b[31m" = "A"\n',
        "raw escape": "[buttons]\njump = '\x1b[31m'\n",
        "name of 10^4": f"[buttons]\n{'x' * 10**4} = 'A'\n",
        "key of 10^4": f"[buttons]\njump = '{'x' * 10**4}'\n",
        "key a table": "[buttons]\njump = {a = 1}\n",
        "key a date": "[buttons]\njump = 2020-01-01\n",
        "key a float": "[buttons]\njump = [1.5]\n",
        "buttons a list": "buttons = ['jump']\n",
        "buttons of tables": "[[buttons]]\njump = 'A'\n",
        "actions text": "actions = 'jump'\n",
        "scale 0": buttons + "[axes]\ndx = 0\n",
        "scale NaN": buttons + "[axes]\ndx = nan\n",
        "scale 1e300": buttons + "[axes]\ndx = 1e300\n",
        "scale of 10^4 digits": buttons + f"[axes]\ndx = 1{'0' * 10**4}\n",
        "scale text": buttons + "[axes]\ndx = 'fast'\n",
        "axis of three keys": buttons + "[axes]\ndx = {keys = ['A', 'B', 'C']}\n",
        "axis keys text": buttons + "[axes]\ndx = {keys = 'AD'}\n",
        "stand_still text": "stand_still = 'jump'\n" + buttons,
        "stand_still nested": "stand_still = [['jump']]\n" + buttons,
        "ignored with an escape": 'ignored = ["\\u001b[31m"]\n' + buttons,
        "recorded list": "recorded = ['a']\n" + buttons,
        "recorded to nothing": buttons + "[recorded]\na = 'fly'\n",
        "recorded to an escape": buttons + '[recorded]\na = "\\u001b"\n',
        "unknown key with an escape": '"\\u001b[31m" = 1\n' + buttons,
        "both tables": buttons + "[actions]\njump = 'A'\n",
        "nothing": "",
        "no TOML": "[buttons",
        "no text": b"\xff\xfe\x00\x01",
        "a NUL": b"[buttons]\n\x00 = 1\n",
    }
    prepared: Prepared = {}
    for number, (name, text) in enumerate({"valid": "\ufeff" + buttons, **changes}.items()):
        path = folder / f"actions-{number}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        arguments = ["--videos", base, "--out", folder / f"set-{number}", "--size", "24x16", "--describe", path]
        prepared[name] = (import_video.main, ImportVideoConfig, [*arguments, "--workers", 1])
    return prepared


def _infer(checkpoint: Path, folder: Path) -> tuple[Any, type, list]:
    options = "--num-prompt-frames 0 --num-frames 2 --num-steps 1 --num-samples 1 --actions random --device cpu"
    return infer.main, infer.InferConfig, ["--checkpoint", checkpoint, *options.split(), "--output", folder / "o.mp4"]


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
