"""The modulation table against the network's own modulation vectors."""

import torch
from tiny import TINY, random_model

from dreamrun.model.modulation_table import MAX_CACHED_ACTIONS, ModulationTable


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
