"""ModelConfig and the presets."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import TINY

from dreamrun.model import PRESETS, ModelConfig, WorldModel


@pytest.mark.parametrize(("preset", "millions"), [("pico", 2.51), ("nano", 9.83), ("small", 57.82), ("base", 119.74)])
def test_parameter_counts_of_the_presets(preset, millions):
    with torch.device("meta"):  # without numbers
        model = WorldModel(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_height": 20}, "multiple of patch_size"),
        ({"frame_width": 0}, "integer from 1 to 4096"),
        ({"num_heads": 3}, "multiple of 4"),
        ({"prediction": "eps"}, "choose v or x0 or velocity"),
        ({"schedule": "cosine"}, "choose sigmoid or linear"),
        ({"attention": "none"}, "choose axial or full"),
        ({"prediction": "velocity"}, "velocity or x0 with linear"),
        ({"schedule": "linear"}, "velocity or x0 with linear"),
        ({"window_frames": 0}, "integer from 1 to 4096"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": "1"}, "guidance is '1'"),
        ({"outcomes": 1}, "outcomes is 1"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_configs_survive_json():
    config = replace(TINY, prediction="x0", guidance=1.5)
    values = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(values) == config
    del values["outcomes"]  # as in old checkpoints
    assert ModelConfig.from_dict(values) == config
