"""Filling in frames: with a network that knows the truth, and with random ones."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY, random_inputs, random_model

from dreamrun.model.diffusion import eps_from_x0, frame_alpha_sigma, target
from dreamrun.model.fill import fill, plan_windows
from dreamrun.model.options import SamplerSettings

FILLER = replace(TINY, can_fill=True, prediction="x0")
W = TINY.window_frames


def filled_by(model, frames, known, actions, num_steps=None, start_level=1.0, **settings):
    *_, filled = fill(model, frames, known, actions, SamplerSettings(num_steps=num_steps, **settings), start_level)
    return filled


class Oracle(torch.nn.Module):
    """Answers with the true frames, which it recognises by the number in their actions."""

    device = torch.device("cpu")

    def __init__(self, truth, prediction):
        super().__init__()
        schedule = "linear" if prediction == "velocity" else "sigmoid"
        self.truth, self.config = truth, replace(FILLER, prediction=prediction, schedule=schedule)
        self.calls = []

    def forward(self, frames, levels, actions, mask, positions):
        assert mask is None and frames.shape[1] == len(positions) and positions.max() < W
        numbers = actions[0, :, 0].long()
        assert torch.equal(numbers - numbers[0], positions - positions[0])
        self.calls.append((numbers.tolist(), levels[0].tolist()))
        x0 = self.truth[:, numbers]
        if self.config.prediction == "x0":
            return x0
        level = frame_alpha_sigma(levels, self.config.schedule)
        return target(x0, eps_from_x0(frames, x0, level), level, self.config.prediction)


def pattern(text: str) -> torch.Tensor:
    return torch.tensor([letter == "k" for letter in text])


PATTERNS = [
    "kk....",
    "....kk",
    "k....k",
    "k.k.k.",
    "......",
    ".",
    "k" + 20 * ".",
    20 * "." + "k",
    "kk" + 17 * "." + "kk",
]
PATTERNS += [10 * "k.", "kkk..kkkkk.kk....kkkkk", 20 * ".", "kkkk" + 8 * "." + "k" + 9 * "." + "kk"]


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity"])
@pytest.mark.parametrize("known", PATTERNS)
def test_an_oracle_fills_in_the_truth(known, prediction):
    """Whatever is known, however long the clip is, and wherever windows meet."""
    truth, _, _ = random_inputs(num_frames=len(known))
    known = pattern(known)
    given = torch.where(known[:, None, None, None], truth, torch.full_like(truth, 0.5))
    actions = torch.arange(len(known))[None, :, None].float().expand(2, -1, 3)
    oracle = Oracle(truth, prediction)
    filled = filled_by(oracle, given, known, actions, num_steps=3)
    assert torch.equal(filled[:, known], truth[:, known])
    torch.testing.assert_close(filled, truth, atol=1e-4, rtol=0)
    for numbers, levels in oracle.calls:  # a network sees only frames that it knows, or fills in now
        assert len(numbers) <= W and len(set(levels)) <= 2


@pytest.mark.parametrize("known", PATTERNS)
def test_each_frame_is_filled_in_once(known):
    known, done = pattern(known).tolist(), pattern(known)
    for window in plan_windows(known, W):
        assert not done[window.targets].any()
        done[window.targets] = True
        assert (
            done[window.frames].all() and window.frames[0] - window.start >= 0 and window.frames[-1] - window.start < W
        )
    assert done.all()


def test_windows_have_frames_on_both_sides_of_a_gap():
    """Gaps that fit are filled in at once; longer ones from both ends, and the rest with both ends in sight."""
    (window,) = plan_windows([True] * 9 + [False] * 3 + [True] * 9, W)
    assert window.frames == list(range(7, 13)) and window.targets == [9, 10, 11]
    windows = plan_windows([True] * 9 + [False] * 7 + [True] * 9, W)
    assert [window.targets for window in windows] == [[9], [15], [10], [14], [11, 12, 13]]
    assert windows[0].frames == list(range(4, 10)) and windows[1].frames == list(range(15, 21))
    assert windows[-1].frames == list(range(9, 15))
    backward = plan_windows([False] * 12 + [True] * 12, 16)
    assert [window.targets for window in backward] == [[10, 11], [8, 9], [6, 7], [4, 5], [2, 3], [0, 1]]
    assert backward[0].frames == list(range(8, 24))[2:] and backward[-1].frames == list(range(16))
    forward = plan_windows([True] * 4 + [False] * 15, 16)
    assert [window.targets[0] for window in forward] == list(range(4, 19, 2)) and forward[-1].targets == [18]
    assert forward[-1].frames == list(range(3, 19))


@pytest.mark.parametrize("known", ["kk..kk", "...kkk" + 9 * "."])
def test_noise_and_known_frames(known):
    """Known frames come back bit for bit. Other noise changes the unknown frames alone, and each of them."""
    model, known = random_model(FILLER), pattern(known)
    frames, _, actions = random_inputs(num_frames=len(known))
    first, again = (filled_by(model, frames, known, actions, 2, seed=3) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[:, known], frames[:, known])
    other = filled_by(model, frames, known, actions, 2, seed=9)
    changed = (other - first).abs().amax(dim=(0, 2, 3, 4)) > 1e-3
    assert torch.equal(changed, ~known)
    torch.testing.assert_close(
        filled_by(model, frames[1:], known, actions[1:], 2, seed=4), first[1:], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("attention", ["axial", "full"])
def test_unknown_frames_see_later_frames_and_actions(attention):
    model, known = random_model(replace(FILLER, attention=attention)), pattern("k..kkk")
    frames, _, actions = random_inputs()
    filled = filled_by(model, frames, known, actions, 2)
    other_frames, other_actions = frames.clone(), actions.clone()
    other_frames[:, -1] *= -1
    other_actions[:, -1] = 0
    assert (filled_by(model, other_frames, known, actions, 2) - filled)[:, 1:3].abs().max() > 1e-3
    assert (filled_by(model, frames, known, other_actions, 2) - filled)[:, 1:3].abs().max() > 1e-3
    unknown = frames.clone()
    unknown[:, 1:3] = 0
    assert torch.equal(filled_by(model, unknown, known, actions, 2)[:, 1:3], filled[:, 1:3])


def test_start_level_keeps_what_was_there():
    """From a low level the result depends on the frames that are given; from pure noise it does not."""
    frames, _, actions = random_inputs(batch=1)
    known, model = pattern("......"), random_model(FILLER)
    low, high = (filled_by(model, frames, known, actions, 1, start_level=level) for level in (0.001, 1.0))
    given = random_inputs(batch=1, seed=1)[0]
    other_low, other_high = (filled_by(model, given, known, actions, 1, start_level=level) for level in (0.001, 1.0))
    assert torch.equal(high, other_high) and (low - other_low).abs().max() > 0.1


def test_guidance_moves_away_from_hidden_actions():
    model, known = random_model(FILLER), pattern("k.....")
    frames, _, actions = random_inputs(batch=1)
    hidden, plain, guided = (filled_by(model, frames, known, actions, 1, guidance=scale) for scale in (0.0, 1.0, 1.5))
    assert torch.allclose(hidden, filled_by(model, frames, known, None, 1), atol=1e-5)
    inside = (plain.abs() < 1) & (hidden.abs() < 1)
    expected = (hidden + 1.5 * (plain - hidden)).clamp(-1, 1)
    torch.testing.assert_close(guided[inside], expected[inside], atol=1e-5, rtol=0)


def test_errors_name_the_value():
    model = random_model(FILLER)
    frames, _, actions = random_inputs()
    known = pattern("kk..kk")
    with pytest.raises(ValueError, match=r"never learnt to fill in frames: train .*--fill-share"):
        filled_by(random_model(), frames, known, actions)
    with pytest.raises(ValueError, match="all 6 frames are known"):
        filled_by(model, frames, torch.ones(6, dtype=torch.bool), actions)
    with pytest.raises(ValueError, match="expected a bool for each"):
        filled_by(model, frames, known[:4], actions)
    with pytest.raises(ValueError, match="start_level is 0"):
        filled_by(model, frames, known, actions, start_level=0.0)
    with pytest.raises(ValueError, match="num_steps is 0"):
        filled_by(model, frames, known, actions, num_steps=0)
    with pytest.raises(ValueError, match="prompt actions of shape"):
        filled_by(model, frames, known, actions[:, :2])
