"""Key objects, on frames whose objects are known."""

from contextlib import closing

import numpy as np
import pytest

from dreamrun.data.dataset import ClipDataset
from dreamrun.evaluation.sections.key_objects import (
    FRAMES,
    KEY_OBJECTS,
    clips_with_object,
    compare_objects,
    find_objects,
    is_alive,
)
from dreamrun.games.factory import make_environment

BALL = KEY_OBJECTS["pong"]
BACKGROUND = (16, 24, 48)


def frame_with(*places):
    frame = np.full((64, 64, 3), BACKGROUND, np.uint8)
    for row, column in places:
        frame[row - 1 : row + 2, column - 1 : column + 2] = BALL.color
    return frame


def test_the_ball_of_pong_is_found_where_it_is():
    with closing(make_environment("pong", 4, seed=0)) as environment:
        for _ in range(40):
            frames = environment.step(np.zeros(4, int))[0]
            for frame, place in zip(frames, environment._state["ball"][:, ::-1], strict=True):
                (found,) = find_objects(frame, BALL)
                assert np.abs(found + 0.5 - place).max() <= 1.5


def test_places_are_compared():
    real = np.stack([frame_with((10, 10)), frame_with((30, 30)), frame_with((50, 20)), frame_with()])
    rollouts = np.stack([frame_with((12, 11)), frame_with((30, 40)), frame_with(), frame_with((5, 5))])
    rollouts[0] = rollouts[0] * 0.8  # paler
    shares = compare_objects(real, rollouts, BALL)
    assert shares["kept"]["value"] == pytest.approx(1 / 3) and shares["kept"]["n"] == 3
    assert shares["real"]["value"] == pytest.approx(1 / 3) and shares["real"]["n"] == 3
    same = compare_objects(real, real, BALL)
    assert same["kept"]["value"] == same["real"]["value"] == 1
    assert compare_objects(real, np.stack([frame_with()] * 4), BALL)["real"] is None  # no object, none of them real


def test_a_rollout_is_alive_if_half_of_its_frames_show_the_object():
    shown, empty = frame_with((9, 9)), frame_with()
    stretches = [np.stack(frames) for frames in ([shown, empty], [empty, empty], [shown, shown], [empty, empty])]
    assert is_alive(stretches, BALL)["value"] == 0.5
    assert is_alive([], BALL) is None


def test_clips_show_the_object_from_the_prompt_on(pong_set):
    data = ClipDataset(pong_set, "test", clip_frames=1)
    clips = clips_with_object(data, BALL, 3, 4, seed=0)
    assert clips.frames.shape[:2] == (3, 4 + max(FRAMES)) and clips.lengths.min() == 4 + max(FRAMES)
    for frames in clips.frames:
        assert all(len(find_objects(frames[3 + frame], BALL)) for frame in (0, *FRAMES))
    coin = KEY_OBJECTS["coinrun"]
    with pytest.raises(ValueError, match="shows a coin"):
        clips_with_object(data, coin, 3, 4, seed=0)
