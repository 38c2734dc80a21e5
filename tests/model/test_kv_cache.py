"""The KV cache against its references: the whole window in each step, and a banded mask over the whole rollout."""

from dataclasses import replace

import pytest
import torch
from tiny import FULL, TINY, make_sampler, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.options import SamplerSettings

CONFIGS = [TINY, replace(TINY, prediction="x0"), FULL]


def rollout(sampler, frames, actions, num_prompt):
    """Frames (B, T, ...) generated after the prompt."""
    sampler.reset(frames[:, :num_prompt], actions[:, :num_prompt])
    return torch.stack([sampler.step(action) for action in actions[:, num_prompt:].unbind(1)], dim=1)


class Banded(WorldModel):
    """Runs over a whole rollout at once. Each frame attends to the last `band` frames up to itself."""

    band: int

    def forward(self, frames, noise_level, actions, temporal_mask=None):
        num_frames = frames.shape[1]
        mask = torch.ones(num_frames, num_frames, dtype=torch.bool).tril().triu(1 - self.band)
        return super().forward(frames, noise_level, actions, mask)


def banded(model, num_frames):
    """The same weights with a window of `num_frames`."""
    wide = Banded(replace(model.config, window_frames=num_frames)).eval()
    wide.load_state_dict(model.state_dict())
    wide.band = model.config.window_frames
    return wide


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("num_prompt", [1, 4, TINY.window_frames - 1])
def test_cached_equals_the_reference_until_the_window_is_full(config, batch, num_prompt):
    model = random_model(config)
    frames, _, actions = random_inputs(batch=batch)
    cached, reference = (
        rollout(make_sampler(model, 3, cache=cache), frames, actions, num_prompt) for cache in (True, False)
    )
    assert reference.std() > 0.1
    torch.testing.assert_close(cached, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_equals_a_banded_mask_over_the_whole_rollout(config, batch):
    """100 frames past the window: keys are rotated back sixteen times."""
    model = random_model(config)
    num_frames = TINY.window_frames + 100
    frames, _, actions = random_inputs(batch=batch, num_frames=num_frames)
    sampler = make_sampler(model, 2)
    sampler.reset(frames[:, :2])
    num_bytes = sampler.num_bytes
    cached = rollout(sampler, frames, actions, 2)
    assert sampler.num_bytes == num_bytes
    reference = rollout(make_sampler(banded(model, num_frames), 2, cache=False), frames, actions, 2)
    assert cached.shape[1] == num_frames - 2
    torch.testing.assert_close(cached, reference, atol=1e-4, rtol=0)


def test_a_banded_mask_is_not_the_truncated_window():
    """The test above can tell them apart."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=20)
    cached, truncated = (rollout(make_sampler(model, 2, cache=cache), frames, actions, 2) for cache in (True, False))
    full = TINY.window_frames - 2
    torch.testing.assert_close(cached[:, :full], truncated[:, :full], atol=1e-4, rtol=0)
    assert (cached[:, full + 2 :] - truncated[:, full + 2 :]).abs().max() > 1e-2


@pytest.mark.parametrize(("config", "cache"), [(TINY, True), (TINY, False), (FULL, True)])
def test_rollouts_do_not_depend_on_other_slots(config, cache):
    """Slots are reset, stepped and freed at different times. Each rollout is the same as alone."""
    model = random_model(config)
    frames, _, actions = random_inputs(batch=4, num_frames=30)
    alone = {
        i: rollout(make_sampler(model, 2, seed=i, cache=cache), frames[i : i + 1], actions[i : i + 1], 1 + i)[0]
        for i in range(4)
    }
    sampler, generated = make_sampler(model, 2, cache=cache), {i: [] for i in range(4)}

    def enter(i, slot):
        sampler.reset(frames[i : i + 1, : 1 + i], actions[i : i + 1, : 1 + i], slots=[slot], seeds=[i])

    def step(slots):
        """slots: {rollout: slot}"""
        step_actions = torch.stack([actions[i, 1 + i + len(generated[i])] for i in slots])
        for i, frame in zip(slots, sampler.step(step_actions, slots=list(slots.values())), strict=True):
            generated[i].append(frame)

    enter(0, 2)
    for _ in range(3):
        step({0: 2})
    enter(1, 0)
    for _ in range(8):
        step({0: 2, 1: 0})
    step({1: 0})  # 0 pauses
    enter(2, 1)
    for _ in range(4):
        step({2: 1, 0: 2, 1: 0})
    sampler.free([0])  # 1 leaves, 3 takes its place
    enter(3, 0)
    for _ in range(9):
        step({3: 0, 2: 1, 0: 2})
    assert sampler.slots == [0, 1, 2]
    for i, frames_of_slot in generated.items():
        assert len(frames_of_slot) > 8
        torch.testing.assert_close(torch.stack(frames_of_slot), alone[i][: len(frames_of_slot)], atol=1e-4, rtol=0)


def test_a_reset_without_slots_frees_all_others():
    model = random_model()
    frames, _, actions = random_inputs(batch=3, num_frames=8)
    sampler = make_sampler(model, 2)
    rollout(sampler, frames, actions, 2)
    again = rollout(sampler, frames[:1], actions[:1], 2)
    assert sampler.slots == [0]
    torch.testing.assert_close(again, rollout(make_sampler(model, 2), frames[:1], actions[:1], 2))


def test_caches_are_rebuilt_from_the_last_windows():
    """Until the window is full a rebuilt cache is the same cache. New weights are used."""
    model, other = random_model(), random_model(seed=1)
    frames, _, actions = random_inputs(batch=2, num_frames=TINY.window_frames)
    unchanged, rebuilt, changed = (make_sampler(model, 2) for _ in range(3))
    for sampler in (unchanged, rebuilt, changed):
        rollout(sampler, frames[:, :4], actions[:, :4], 2)
    rebuilt.rebuild()
    torch.testing.assert_close(rebuilt.step(actions[:, 4]), unchanged.step(actions[:, 4]), atol=1e-4, rtol=0)

    reference = make_sampler(model, 2, cache=False)
    rollout(reference, frames[:, :4], actions[:, :4], 2)
    for sampler in (changed, reference):
        sampler.rebuild(other, SamplerSettings(num_steps=3))
    new = changed.step(actions[:, 4])
    torch.testing.assert_close(new, reference.step(actions[:, 4]), atol=1e-4, rtol=0)
    assert (new - unchanged.step(actions[:, 4])).abs().max() > 1e-2
    with pytest.raises(ValueError, match="other sizes"):
        changed.rebuild(random_model(replace(TINY, num_actions=5)))


def test_a_rollout_does_not_change_when_the_cache_grows():
    """Past the window its keys depend on frames that have left it, so a rebuilt cache would differ."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=20)
    alone = rollout(make_sampler(model, 2), frames, actions, 2)
    sampler = make_sampler(model, 2)
    sampler.reset(frames[:, :2], actions[:, :2])
    before = [sampler.step(action) for action in actions[:, 2:12].unbind(1)]
    sampler.reset(frames[:, :1], slots=[3])
    after = [sampler.step(action, slots=[0]) for action in actions[:, 12:].unbind(1)]
    torch.testing.assert_close(torch.stack([*before, *after], dim=1), alone, atol=1e-5, rtol=0)
