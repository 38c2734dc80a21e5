"""Faster inference: packed linears, and the table of modulation vectors, against the plain network."""

import pytest
import torch
from tiny import TINY, make_sampler, random_inputs, random_model

from dreamrun.model.inference import PackedLinear, has_native_bf16, pack, prepare_for_inference
from dreamrun.model.modulation_table import MAX_CACHED_ACTIONS, ModulationTable


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_a_packed_network_gives_the_same_numbers(dtype, tolerance):
    plain, inputs = random_model().to(dtype), random_inputs()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    with torch.inference_mode():
        expected = plain(*inputs)
        packed = prepare_for_inference(plain, torch.device("cpu"), bf16=dtype == torch.bfloat16)
        if dtype == torch.float32 or has_native_bf16(torch.device("cpu")):
            assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 10 * TINY.num_blocks + 2
        actual = packed(*inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())  # packing copies
    assert not any(isinstance(module, PackedLinear) for module in plain.modules())
    assert expected.std() > 0.5
    torch.testing.assert_close(actual, expected, atol=tolerance * expected.std().item(), rtol=0.02)


def test_a_packed_network_gives_the_same_rollout():
    frames, _, actions = random_inputs(batch=2, num_frames=9)
    rollouts = []
    for model in (random_model(), pack(random_model())):
        sampler = make_sampler(model, 2)
        sampler.reset(frames[:, :3], actions[:, :3])
        rollouts.append(torch.stack([sampler.step(action) for action in actions[:, 3:].unbind(1)]))
    torch.testing.assert_close(*rollouts, atol=1e-4, rtol=0)


def test_actions_that_are_not_one_hot_are_computed():
    model = random_model()
    table = ModulationTable(model, [1.0, 0.5])
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 1.0, 0.0]])
    with torch.no_grad():
        expected = [model.modulations(torch.full((4, 1), level), several[:, None])[:, 0] for level in (1.0, 0.5)]
        torch.testing.assert_close(table.lookup(several), torch.stack(expected))
        torch.testing.assert_close(table.lookup(several[[3, 1]]), torch.stack(expected)[:, [3, 1]])


def test_cached_actions_are_not_computed_again(monkeypatch):
    """One-hot actions are computed in advance; recent other actions are cached."""
    table = ModulationTable(random_model(), [1.0, 0.5])
    together = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.2, 0.0]])
    first = table.lookup(together)
    monkeypatch.setattr(table, "_compute", None)
    assert table.lookup(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).shape == (2, 2, 12 * TINY.num_blocks + 2, 32)
    assert torch.equal(table.lookup(together.flip(0)), first.flip(1))


def test_the_number_of_cached_actions_is_limited():
    model = random_model()
    table = ModulationTable(model, [1.0])
    axes = torch.rand(3 * MAX_CACHED_ACTIONS, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.modulations(torch.ones(len(axes), 1), axes[:, None])[:, 0]
        for rows in (slice(0, 1), slice(0, 2 * MAX_CACHED_ACTIONS), slice(0, len(axes)), slice(5, 9)):
            torch.testing.assert_close(table.lookup(axes[rows])[0], expected[rows])
    assert len(table._recent) == MAX_CACHED_ACTIONS
