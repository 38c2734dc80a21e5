"""The cache against its references: recomputing the window, and a banded mask over the whole dream."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY, random_inputs, random_model

from model import Sampler, WorldModel
from model.kv_cache import KVCache
from model.modulation_table import MAX_CACHED_ACTIONS, ModulationTable
from model.rotary import apply_rotary_emb


def dream(sampler, frames, actions, num_prompt):
    """(B, T, ...) frames dreamt after the prompt."""
    sampler.reset(frames[:, :num_prompt], actions[:, :num_prompt])
    return torch.stack([sampler.step(action) for action in actions[:, num_prompt:].unbind(1)], dim=1)


class Banded(WorldModel):
    """Sees a whole dream at once, each frame only the `band` frames up to itself."""

    band: int

    def forward(self, frames, noise_level, actions, temporal_mask=None):
        num_frames = frames.shape[1]
        mask = torch.ones(num_frames, num_frames, dtype=torch.bool).tril().triu(1 - self.band)
        return super().forward(frames, noise_level, actions, mask)


def banded(model, num_frames):
    """The same weights with room for so many frames."""
    wide = Banded(replace(model.config, window_frames=num_frames)).eval()
    wide.load_state_dict(model.state_dict())
    wide.band = model.config.window_frames
    return wide


@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("num_prompt", [1, 4, TINY.window_frames - 1])
def test_cached_equals_the_reference_until_the_window_is_full(prediction, batch, num_prompt):
    model = random_model(replace(TINY, prediction=prediction))
    frames, _, actions = random_inputs(batch=batch)
    cached, reference = (dream(Sampler(model, 3, cache=cache), frames, actions, num_prompt) for cache in (True, False))
    assert reference.std() > 0.1
    torch.testing.assert_close(cached, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("batch", [1, 3])
def test_cached_equals_a_banded_mask_over_the_whole_dream(prediction, batch):
    """A hundred frames past the window: sixteen times, keys are turned back."""
    model = random_model(replace(TINY, prediction=prediction))
    num_frames = TINY.window_frames + 100
    frames, _, actions = random_inputs(batch=batch, num_frames=num_frames)
    cached = dream(Sampler(model, 2), frames, actions, 2)
    reference = dream(Sampler(banded(model, num_frames), 2, cache=False), frames, actions, 2)
    assert cached.shape[1] == num_frames - 2
    torch.testing.assert_close(cached, reference, atol=1e-4, rtol=0)


def test_a_banded_mask_is_not_the_truncated_window():
    """Or else the test above could not tell them apart."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=20)
    cached, truncated = (dream(Sampler(model, 2, cache=cache), frames, actions, 2) for cache in (True, False))
    full = TINY.window_frames - 2
    torch.testing.assert_close(cached[:, :full], truncated[:, :full], atol=1e-4, rtol=0)
    assert (cached[:, full + 2 :] - truncated[:, full + 2 :]).abs().max() > 1e-2


def test_nothing_grows_however_long_the_dream():
    model = random_model()
    frames, _, actions = random_inputs(batch=2, num_frames=2)
    sampler = Sampler(model, 1)
    sampler.reset(frames, actions)
    num_bytes = sampler.num_bytes
    cache = sampler._cache
    pointers = cache.keys.data_ptr(), cache.values.data_ptr()
    for _ in range(200):
        sampler.step(actions[:, 0])
        assert max(cache.positions) < 2 * TINY.window_frames
        assert max(cache.lengths) < TINY.window_frames
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == pointers and sampler.num_bytes == num_bytes
    assert all(len(d.frames) == len(d.actions) == TINY.window_frames - 1 for d in sampler._dreams.values())


@pytest.mark.parametrize("cache", [True, False])
def test_dreams_do_not_notice_who_enters_or_leaves(cache):
    """Slots reset, stepped and freed at different times: each is the dream that it would be alone."""
    model = random_model()
    frames, _, actions = random_inputs(batch=4, num_frames=30)
    alone = {
        i: dream(Sampler(model, 2, seed=i, cache=cache), frames[i : i + 1], actions[i : i + 1], 1 + i)[0]
        for i in range(4)
    }
    sampler, dreamt = Sampler(model, 2, cache=cache), {i: [] for i in range(4)}

    def enter(dream_number, slot):
        i = dream_number
        sampler.reset(frames[i : i + 1, : 1 + i], actions[i : i + 1, : 1 + i], slots=[slot], seeds=[i])

    def tick(where):
        """where: {dream: slot}"""
        now = torch.stack([actions[i, 1 + i + len(dreamt[i])] for i in where])
        for i, frame in zip(where, sampler.step(now, slots=list(where.values())), strict=True):
            dreamt[i].append(frame)

    enter(0, 2)
    for _ in range(3):
        tick({0: 2})
    enter(1, 0)
    for _ in range(8):
        tick({0: 2, 1: 0})
    tick({1: 0})  # 0 pauses
    enter(2, 1)
    for _ in range(4):
        tick({2: 1, 0: 2, 1: 0})
    sampler.free([0])  # 1 leaves, 3 takes its place
    enter(3, 0)
    for _ in range(9):
        tick({3: 0, 2: 1, 0: 2})
    assert sampler.slots == [0, 1, 2]
    for i, got in dreamt.items():
        assert len(got) > 8
        torch.testing.assert_close(torch.stack(got), alone[i][: len(got)], atol=1e-4, rtol=0)


def test_a_reset_of_all_forgets_the_others():
    model = random_model()
    frames, _, actions = random_inputs(batch=3, num_frames=8)
    sampler = Sampler(model, 2)
    dream(sampler, frames, actions, 2)
    again = dream(sampler, frames[:1], actions[:1], 2)
    assert sampler.slots == [0]
    torch.testing.assert_close(again, dream(Sampler(model, 2), frames[:1], actions[:1], 2))


def test_caches_are_rebuilt_from_the_last_windows():
    """With the window not yet full, a rebuilt cache is the same cache; new weights are taken over."""
    model, other = random_model(), random_model(seed=1)
    frames, _, actions = random_inputs(batch=2, num_frames=TINY.window_frames)
    kept, rebuilt, changed = (Sampler(model, 2) for _ in range(3))
    for sampler in (kept, rebuilt, changed):
        dream(sampler, frames[:, :4], actions[:, :4], 2)
    rebuilt.rebuild()
    torch.testing.assert_close(rebuilt.step(actions[:, 4]), kept.step(actions[:, 4]), atol=1e-4, rtol=0)

    changed.rebuild(other, num_steps=3)
    reference = Sampler(other, 3, cache=False)
    reference.reset(frames[:, :4], actions[:, :4])
    for slot in (0, 1):
        reference._dreams[slot] = changed._dreams[slot]
    state = [d.generator.get_state() for d in changed._dreams.values()]
    new = changed.step(actions[:, 4])
    for slot in (0, 1):
        reference._dreams[slot].frames.pop()
        reference._dreams[slot].actions.pop()
        reference._dreams[slot].generator.set_state(state[slot])
    torch.testing.assert_close(new, reference.step(actions[:, 4]), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="other sizes"):
        changed.rebuild(random_model(replace(TINY, num_actions=5)))


def test_actions_that_are_not_one_hot_are_computed():
    model = random_model()
    table = ModulationTable(model, [1.0, 0.5])
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 1.0, 0.0]])
    with torch.no_grad():
        expected = [model.modulations(torch.full((4, 1), level), several[:, None])[:, 0] for level in (1.0, 0.5)]
        torch.testing.assert_close(table.lookup(several), torch.stack(expected))
        torch.testing.assert_close(table.lookup(several[[3, 1]]), torch.stack(expected)[:, [3, 1]])


def test_looked_up_actions_cost_no_computation(monkeypatch):
    """Those known from the start, and those that were seen lately: keys stay held."""
    table = ModulationTable(random_model(), [1.0, 0.5])
    together = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.2, 0.0]])
    first = table.lookup(together)
    monkeypatch.setattr(table, "_compute", None)
    assert table.lookup(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).shape == (2, 2, 12 * TINY.num_blocks + 2, 32)
    assert torch.equal(table.lookup(together.flip(0)), first.flip(1))


def test_few_of_the_actions_seen_are_kept():
    model = random_model()
    table = ModulationTable(model, [1.0])
    axes = torch.rand(3 * MAX_CACHED_ACTIONS, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.modulations(torch.ones(len(axes), 1), axes[:, None])[:, 0]
        for rows in (slice(0, 1), slice(0, 2 * MAX_CACHED_ACTIONS), slice(0, len(axes)), slice(5, 9)):
            torch.testing.assert_close(table.lookup(axes[rows])[0], expected[rows])
    assert len(table._latest) == MAX_CACHED_ACTIONS


def test_keys_turned_back_are_those_of_the_earlier_position():
    cache = KVCache(TINY, 2, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(2, TINY.num_patches, TINY.num_heads, 1, TINY.head_dim, generator=generator)
    v = torch.zeros_like(k)

    def scores():
        """What a query at the next frame makes of the key written one frame before."""
        view = cache.begin([0, 1])
        keys, _ = view.update(0, torch.zeros_like(k), v)
        return keys.unflatten(0, (2, -1))[:, :, :, (cache.positions[0] - 1) % TINY.window_frames]

    seen = []
    for _ in range(4 * TINY.window_frames):
        view = cache.begin([0, 1])

        view.update(0, apply_rotary_emb(k, view.turns[:, :, :, 0].unsqueeze(2)), v)
        view.keep()
        turns = cache._turns[cache.positions[0] - 1 if cache.positions[0] else 0]
        seen.append(apply_rotary_emb(scores(), turns * torch.tensor((1.0, -1.0))))
    for back in seen:
        torch.testing.assert_close(back, k[:, :, :, 0], atol=1e-5, rtol=0)


def test_a_dream_does_not_notice_that_another_begins_in_a_new_slot():
    """Past the window its keys know of frames that have left it: made anew they would be others."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=20)
    alone = dream(Sampler(model, 2), frames, actions, 2)
    sampler = Sampler(model, 2)
    sampler.reset(frames[:, :2], actions[:, :2])
    before = [sampler.step(action) for action in actions[:, 2:12].unbind(1)]
    sampler.reset(frames[:, :1], slots=[3])
    after = [sampler.step(action, slots=[0]) for action in actions[:, 12:].unbind(1)]
    torch.testing.assert_close(torch.stack([*before, *after], dim=1), alone, atol=1e-5, rtol=0)
