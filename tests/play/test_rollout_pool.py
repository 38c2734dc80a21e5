"""The rollout pool without a server."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CONTROLS, TINY, assert_one_line, command, random_model

from dreamrun.games.space import UNKNOWN_ACTION, unnamed_actions
from dreamrun.model import GameInfo, WorldModel
from dreamrun.model.inference import free_memory
from dreamrun.model.modulation_table import MAX_CACHED_ACTIONS
from dreamrun.play import memory
from dreamrun.play.memory import check_memory
from dreamrun.play.played_game import MAX_NUM_STEPS
from dreamrun.play.recording import max_recording_bytes
from dreamrun.play.rollout_pool import Prompt, RolloutPool, RolloutSettings


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


@pytest.mark.parametrize("space", [None, CONTROLS])
def test_a_rollout_takes_no_more_memory_than_is_checked_for(space):
    """With the most denoising steps, guidance, a full window, and as many actions as are cached."""
    actions = space or unnamed_actions(3)
    config = replace(TINY, num_actions=len(actions))
    pool = RolloutPool(random_model(config, game=GameInfo.from_dict(actions.to_dict())), "x")
    prompt = Prompt(np.zeros((5, 16, 24, 3), np.uint8), actions.unknown(5))
    rollout = pool.start(prompt, 0, RolloutSettings(MAX_NUM_STEPS, guidance=2.0))
    pool.step([(rollout, actions.noop)])
    (sampler,) = pool._samplers.values()
    table = sampler._modulation_table
    for number in range(0 if actions.discrete else 2 * MAX_CACHED_ACTIONS):
        table.lookup(torch.full((1, config.num_actions), number / 100))
    cached = [table._one_hot, *table._recent.values()]
    used = 2 * sampler.num_bytes + sum(tensor.nbytes for tensor in cached)
    used += sum(frame.nbytes for frame in sampler._states[rollout.slot].frames)
    assert 0.8 * pool.bytes_per_rollout(MAX_NUM_STEPS) < used <= pool.bytes_per_rollout(MAX_NUM_STEPS)


def test_too_little_memory_for_all_players_is_an_error(play_config):
    pool, cpu = RolloutPool(WorldModel.from_pretrained(play_config.checkpoint), "x"), torch.device("cpu")
    rollout, recording = pool.bytes_per_rollout(MAX_NUM_STEPS), max_recording_bytes((64, 64, 3))
    enough = 4 * (rollout + recording) + rollout
    assert "memory per player: up to " in check_memory(pool, 4, cpu, lambda _: enough)
    assert check_memory(pool, 4, cpu, lambda _: None)  # unknown
    with pytest.raises(ValueError, match=r"^4 players need up to 0.2 GiB, and 0.2 GiB .* CPU: choose --max-players 3$"):
        check_memory(pool, 4, cpu, lambda _: enough - 1)
    with pytest.raises(ValueError, match="play a smaller checkpoint"):
        check_memory(pool, 4, cpu, lambda _: rollout)
    free = {"cuda": 4 * rollout, "cpu": 4 * recording}
    with pytest.raises(ValueError, match="on the GPU: choose --max-players 3"):
        check_memory(pool, 4, torch.device("cuda"), lambda device: free[device.type])
    assert 2**20 < free_memory(cpu) < 2**50


def test_the_server_does_not_start_with_too_little_memory(play_config, monkeypatch, capsys):
    monkeypatch.setattr(memory.check_memory, "__defaults__", (lambda _: 10**6,))
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0)
    code, _, err = command(monkeypatch, capsys, "scripts.play", *options)
    assert_one_line(code, err, "4 players need up to", "0.0 GiB are free on the CPU: play a smaller checkpoint")
