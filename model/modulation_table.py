"""Modulation vectors of the sampler's few noise levels and actions, computed once in place of once per frame.

Shapes: L noise levels, B batch, A action vector, M modulation vectors of the whole network, D width.
"""

from collections import OrderedDict

import torch
from torch import Tensor

from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import without_text

MAX_CACHED_ACTIONS = 64  # actions other than one-hot whose modulation is cached; 1 MB each for preset `small`


class ModulationTable:
    """Modulation at each noise level for the zero action, every one-hot action, and recent other actions.

    Other actions are buttons held together or axes. They are cached, because they rarely change from frame to frame.
    """

    def __init__(self, model: WorldModel, noise_levels: list[float]):
        self._model = model
        self._noise_levels = torch.tensor(noise_levels).to(model.device, non_blocking=True)
        num_actions = model.config.num_actions
        actions = torch.cat((torch.zeros(1, num_actions), torch.eye(num_actions)))
        self._one_hot = self._compute(actions, model)  # (L, 1 + A, M, D), the zero action first
        self._hidden = self._one_hot[:, 0]  # (L, M, D), for the zero action without words
        if model.words is not None:
            self._hidden = self._compute(actions[:1], without_text(model))[:, 0]
        self._recent: OrderedDict[bytes, Tensor] = OrderedDict()  # action vector -> (L, M, D), oldest first

    def lookup(self, actions: Tensor) -> Tensor:
        """(B, A) -> (L, B, M, D). Only actions on the CPU are looked up: to look at a GPU's would be to wait for it."""
        if actions.device.type != "cpu":
            return self._compute(actions, self._model)
        is_one = actions == 1
        all_one_hot = (is_one | (actions == 0)).all() and (is_one.sum(-1) <= 1).all()
        if all_one_hot:
            rows = torch.where(is_one.any(-1), 1 + is_one.int().argmax(-1), 0)
            return self._one_hot[:, rows.to(self._one_hot.device, non_blocking=True)]
        keys = [action.tobytes() for action in actions.float().cpu().numpy()]
        missing = {key: row for row, key in enumerate(keys) if key not in self._recent}
        if missing:
            computed = self._compute(actions[list(missing.values())], self._model).unbind(1)
            self._recent.update(zip(missing, computed, strict=True))
        for key in keys:
            self._recent.move_to_end(key)
        modulations = torch.stack([self._recent[key] for key in keys], dim=1)
        while len(self._recent) > MAX_CACHED_ACTIONS:
            self._recent.popitem(last=False)
        return modulations

    def unconditional(self, batch: int) -> Tensor:
        """(L, batch, M, D) for guidance: without action and without words."""
        return self._hidden[:, None].expand(-1, batch, -1, -1)

    def _compute(self, actions: Tensor, model: WorldModel) -> Tensor:
        """(B, A) -> (L, B, M, D)."""
        actions = actions.to(self._noise_levels, non_blocking=True)
        levels = self._noise_levels[:, None].expand(-1, len(actions))
        return model.modulations(levels, actions.expand(len(levels), -1, -1))
