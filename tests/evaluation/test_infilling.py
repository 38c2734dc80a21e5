"""The section on editing: patterns, figures that are known in advance, and models that cannot fill in."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import random_model

from dreamrun.data.dataset import ClipDataset
from dreamrun.editing.measures import nearest_known, ordinary_range
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.sections import infilling
from dreamrun.evaluation.sections.infilling import measure, patterns
from dreamrun.model import ModelConfig
from dreamrun.model.options import ResolvedSettings


def test_patterns_of_a_window():
    shown = {name: "".join(".k"[int(value)] for value in known) for name, known in patterns(16).items()}
    assert shown == {
        "between both ends": "kkkk........kkkk",
        "every other frame": "k.k.k.k.k.k.k.kk",
        "backward": "........kkkkkkkk",
        "forward": "kkkkkkkk........",
    }


def test_range_of_ordinary_steps():
    frames = np.zeros((41, 2, 2, 3), np.uint8)
    frames[1::2] = 10  # steps of 10 alone
    frames[40] = 255
    low, high = ordinary_range([frames])
    assert low == 10 and 10 <= high < 255


@pytest.fixture
def context(pong_set):
    """Held-out Pong, and a model of a window of 8 frames."""
    dataset = ClipDataset(pong_set, "test", clip_frames=1)
    config = ModelConfig(
        patch_size=16, dim=32, num_blocks=1, num_heads=2, window_frames=8, num_actions=3, prediction="x0", can_fill=True
    )
    model = random_model(config)
    return SimpleNamespace(
        model=model, inference_model=model, sizes={"num_clips": 3}, held_out=dataset, space=dataset.metadata.actions,
        settings=ResolvedSettings(2, 1.0, 0.02), config=EvaluateConfig(checkpoint="x", batch_size=2),
    )  # fmt: skip


def test_a_model_that_knows_the_truth_is_perfect(context, monkeypatch):
    """Under true actions this one answers with the truth, and under others with the nearest known frame."""
    truths = []
    draw_clips = infilling.draw_clips

    def note(*arguments):
        clips = draw_clips(*arguments)
        truths.extend(zip(clips.frames, clips.actions, strict=True))
        return clips

    def answer(clip):
        for frames, actions in truths:
            if np.array_equal(actions, clip.actions) and np.array_equal(frames[clip.known], clip.frames[clip.known]):
                return frames
        return nearest_known(clip.frames, clip.known)

    def complete(model, clips, space, settings):
        return [np.stack([answer(clip) for clip in clips])]

    monkeypatch.setattr(infilling, "draw_clips", note)
    monkeypatch.setattr(infilling, "complete", complete)
    section = measure(context)
    for pattern in section["patterns"]:
        rows = pattern["rows"]
        assert rows["true actions"]["psnr"]["value"] is None and rows["true actions"]["ssim"]["value"] == 1
        assert rows["hidden actions"] == rows["nearest known frame"]
        assert rows["cross-fade"]["psnr"]["value"] > 10
    loops, joins, ordinary = section["loops"], section["joins"], section["ordinary"]
    assert loops["frames"] == 32 and joins["frames"] == 4 and ordinary["low"] <= ordinary["median"] <= ordinary["high"]
    assert loops["into"]["value"] == 0 < loops["largest"]["value"]  # the nearest known frame is repeated, then it jumps


def test_a_model_of_random_weights_is_measured(context):
    section = measure(context)
    for pattern in section["patterns"]:
        psnr = {name: row["psnr"]["value"] for name, row in pattern["rows"].items()}
        assert psnr["true actions"] < psnr["nearest known frame"] and psnr["true actions"] != psnr["hidden actions"]
        assert psnr["true actions, 1 step"] != psnr["true actions"]


def test_a_model_that_cannot_fill_in_is_not_measured(context):
    context.model = random_model(ModelConfig(**{**context.model.config.to_dict(), "can_fill": False}))
    with pytest.raises(ValueError, match="never learnt to fill in"):
        measure(context)
