"""The rollout pool without a server, and the memory that it needs."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CONTROLS, TINY, random_model

from dreamrun.games.game import Game
from dreamrun.games.space import UNKNOWN_ACTION, unnamed_actions
from dreamrun.model import WorldModel
from dreamrun.model.inference import free_memory
from dreamrun.model.modulation_table import MAX_CACHED_ACTIONS
from dreamrun.model.options import ResolvedSettings
from dreamrun.play.launch import running_app
from dreamrun.play.rollout_pool import Prompt, RolloutPool
from dreamrun.play.security import check_memory


def test_slots_are_reused(play_config):
    model = WorldModel.from_pretrained(play_config.checkpoint)
    pool, prompt = RolloutPool(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    quick, slow = ResolvedSettings(1, 1.0), ResolvedSettings(2, guidance=2.0, seed=2)
    a, b, c = pool.start(prompt, quick), pool.start(prompt, replace(quick, seed=1)), pool.start(prompt, slow)
    assert (a.slot, b.slot, c.slot) == (0, 1, 0)
    results = pool.step([(c, 1), (b, 2), (a, 0)])
    assert [result.action for result in results] == [1, 2, 0] and list(b.actions) == [2]
    pool.end(a)
    pool.end(a)
    assert pool.start(prompt, replace(quick, seed=3)).slot == 0 and len(pool) == 3
    for rollout in (b, c):
        pool.end(rollout)
    with pytest.raises(ValueError, match="prompt of shape"):
        pool.start(replace(prompt, frames=np.zeros((2, 8, 8, 3), np.uint8)), slow)
    assert len(pool) == 1


def test_a_dream_for_a_program_leaves_no_rollout_behind(play_config):
    pool = RolloutPool(WorldModel.from_pretrained(play_config.checkpoint), "x")
    prompt = Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    assert [step.action for step in pool.dream(prompt, ResolvedSettings(1, 1.0), [1, 2])] == [1, 2] and len(pool) == 0
    steps = pool.dream(prompt, ResolvedSettings(1, 1.0), [1, 2])
    next(steps)
    steps.close()
    assert len(pool) == 0


def tensor_bytes() -> int:
    """Memory of all tensors that were made after the last `gc.freeze`."""
    gc.collect()
    tensors = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and not x.is_mkldnn)
    storages = [x.untyped_storage() for x in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("space", [None, CONTROLS])
def test_a_rollout_takes_no_more_memory_than_is_checked_for(space):
    """With guidance, a full window, and as many actions as are cached."""
    actions = space or unnamed_actions(3)
    config = replace(TINY, num_actions=len(actions))
    pool = RolloutPool(random_model(config, game=Game(actions=actions)), "x")
    gc.freeze()
    rollout = pool.start(Prompt(np.zeros((5, 16, 24, 3), np.uint8), actions.unknown(5)), ResolvedSettings(2, 2.0))
    for number in range(2 if actions.discrete else MAX_CACHED_ACTIONS + 2):
        pool.step([(rollout, actions.noop if actions.discrete else np.full(len(actions.names), number, np.float32))])
    used = tensor_bytes()
    gc.unfreeze()
    assert 0.4 * pool.bytes_per_rollout(2) < used <= pool.bytes_per_rollout(2)  # the cache counts twice


def test_too_little_memory_for_all_players_is_an_error(play_config):
    cpu, rollout, recording = torch.device("cpu"), 10 * 2**20, 40 * 2**20
    enough = 4 * (rollout + recording) + rollout
    assert "memory per player: up to 10 MiB, and 40" in check_memory(rollout, recording, 4, cpu, lambda _: enough)
    assert check_memory(rollout, recording, 4, cpu, lambda _: None)  # unknown
    with pytest.raises(ValueError, match=r"^4 players need up to 0.2 GiB, and 0.2 GiB .* CPU: choose --max-players 3$"):
        check_memory(rollout, recording, 4, cpu, lambda _: enough - 1)
    free = {"cuda": 4 * rollout, "cpu": 4 * recording}
    with pytest.raises(ValueError, match="on the GPU: choose --max-players 3"):
        check_memory(rollout, recording, 4, torch.device("cuda"), lambda device: free[device.type])
    assert 2**20 < free_memory(cpu) < 2**50
    with pytest.raises(ValueError, match=r"4 players need up to .* play a smaller checkpoint"):
        running_app(replace(play_config, max_players=4), free_memory=lambda _: 10**6).__enter__()
