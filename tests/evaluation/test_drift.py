"""Statistics and collapses of long rollouts."""

import numpy as np
import pytest
from artificial import PROMPT, noise

from dreamrun.data.clips import draw_clips, draw_records, scripted_actions
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.recorded_game import replay_to
from dreamrun.evaluation.sections.drift import DriftReference, drift


@pytest.fixture(scope="module")
def reference(pong_set, held_out):
    train = ClipDataset(pong_set, "train", clip_frames=1)
    frames = np.concatenate([record.frames for record in draw_records(train, 24, 0)])[::2]
    return DriftReference(frames, [record.frames for record in held_out.records(range(3))], held_out.metadata.fps)


def real_future(record, metadata, actions):
    """The frames of the real game from a record's start under other actions."""
    environment, _ = replay_to(record, metadata)
    return np.stack([environment.step(np.array([action]))[0][0] for action in actions])


def test_a_perfect_long_rollout_does_not_collapse(reference, held_out):
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    actions = scripted_actions(clips, 3, 240, seed=0)
    records = held_out.records(range(3))
    rollouts = [real_future(record, held_out.metadata, row) for record, row in zip(records, actions, strict=True)]
    result = drift(np.stack([reference.statistics(frames)[1] for frames in rollouts]), reference)
    assert result["collapsed"]["value"] == 0.0 and result["collapsed"]["n"] == 3
    assert len(result["collapsed_by_window"]) == 240 // 30
    assert result["real"]["collapsed"] < 0.03  # false alarms on real play
    for name in ("sharpness", "brightness", "motion"):
        assert result["statistics"][name][-1]["value"] == pytest.approx(result["real"]["median"][name], rel=0.5)


@pytest.mark.parametrize("kind", ["frozen", "flat", "blown out"])
def test_each_kind_of_collapse_is_recognised(reference, clips, kind):
    rng = np.random.default_rng(0)
    frames = {
        "frozen": np.repeat(clips.frames[0, :1], 90, axis=0),
        "flat": np.broadcast_to(rng.integers(0, 256, (90, 1, 1, 1)), (90, 64, 64, 3)).astype(np.uint8),
        "blown out": noise((90, 64, 64, 3)),
    }[kind]
    result = drift(reference.statistics(frames)[1][None], reference)
    assert result["collapsed"]["value"] == result["collapsed_how"][kind]["value"] == 1.0
    assert kind == "flat" or result["collapsed_how"]["flat"]["value"] == 0.0
    assert kind == "frozen" or result["collapsed_how"]["frozen"]["value"] == 0.0


def test_a_reference_needs_a_record_as_long_as_a_window(clips):
    with pytest.raises(ValueError, match="as long as a window of 30 frames"):
        DriftReference(clips.frames[0], [clips.frames[1]], fps=15.0)
