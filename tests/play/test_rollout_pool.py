"""The rollout pool without a server."""

from dataclasses import replace

import numpy as np
import pytest

from data.actions import UNKNOWN_ACTION
from model import WorldModel
from play.rollout_pool import Prompt, RolloutPool, RolloutSettings


def test_slots_are_reused_and_unused_samplers_are_freed(play_config):
    model = WorldModel.from_pretrained(play_config.checkpoint)
    pool, prompt = RolloutPool(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    quick, slow = RolloutSettings(1), RolloutSettings(2, guidance=2.0)
    a, b, c = pool.start(prompt, 0, quick), pool.start(prompt, 1, quick), pool.start(prompt, 2, slow)
    assert (a.slot, b.slot, c.slot) == (0, 1, 0)
    results = pool.step([(c, 1), (b, 2), (a, 0)])
    assert [result.action for result in results] == [1, 2, 0] and list(b.actions) == [2]
    pool.end(a)
    pool.end(a)
    assert pool.start(prompt, 3, quick).slot == 0 and len(pool) == 3
    for rollout in (b, c):
        pool.end(rollout)
    assert len(pool) == 1 and list(pool._samplers) == [quick]
    with pytest.raises(ValueError, match="prompt of shape"):
        pool.start(replace(prompt, frames=np.zeros((2, 8, 8, 3), np.uint8)), 0, slow)
    assert len(pool) == 1 and list(pool._samplers) == [quick]
