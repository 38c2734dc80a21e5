"""TODO."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from model.dit import WorldModel

MAX_CACHED_ACTIONS = 64  # whose modulations are kept, besides those of one-hot ones; 1 MB each for `small`


class ModulationTable:
    """The modulation vectors of all blocks at a few noise levels, for no action and every one-hot one, from the start.

    And for the latest others, buttons held together or axes pushed: as a rule they stay so for many frames.

    Args:
        model: whose weights they follow from.
        levels: L noise levels.
    """

    def __init__(self, model: WorldModel, levels: list[float]):
        self._model = model
        self._levels = torch.tensor(levels, device=model.device)
        num_actions = model.config.num_actions
        actions = torch.cat((torch.zeros(1, num_actions), torch.eye(num_actions)))
        self._rows = self._compute(actions)  # (L, 1 + A, M, D)
        self._latest: OrderedDict[bytes, Tensor] = OrderedDict()  # (L, M, D) of other actions

    def lookup(self, actions: Tensor) -> Tensor:
        """(B, A), on the CPU if it is to be quick -> (L, B, M, D)."""
        is_one = actions == 1
        plain = (is_one | (actions == 0)).all() and (is_one.sum(-1) <= 1).all()
        if plain:
            rows = torch.where(is_one.any(-1), 1 + is_one.int().argmax(-1), 0)
            return self._rows[:, rows.to(self._rows.device)]
        keys = [row.tobytes() for row in actions.float().cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in self._latest}
        if new:
            computed = self._compute(actions[list(new.values())]).unbind(1)
            self._latest.update(zip(new, computed, strict=True))
        for key in keys:
            self._latest.move_to_end(key)
        found = torch.stack([self._latest[key] for key in keys], dim=1)
        while len(self._latest) > MAX_CACHED_ACTIONS:
            self._latest.popitem(last=False)
        return found

    def _compute(self, actions: Tensor) -> Tensor:
        """(B, A) -> (L, B, M, D)."""
        actions = actions.to(self._levels)
        grid = self._levels[:, None].expand(-1, len(actions))
        return self._model.modulations(grid, actions.expand(len(self._levels), -1, -1))
