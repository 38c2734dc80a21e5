"""Training an outcome head, alone and with its network."""

import pytest
import torch
from runs import FEW, assert_same_run, finish, start, values
from tiny import refused, succeeded

from dreamrun.model import WorldModel
from dreamrun.model.outcome_head import NUM_BINS, outcome_losses

FORCING = ("--noise-levels", "teacher-forcing", "--clip-stride", 16, "--epoch-clips", 4)


@pytest.fixture
def network(train_command, tmp_path):
    """A checkpoint without a head."""
    assert train_command("--max-steps", 2, *FORCING, "--out", tmp_path / "network")[0] == 0
    return tmp_path / "network" / "checkpoints" / "latest"


def test_what_records_do_not_know_is_masked():
    nan = float("nan")
    logits = torch.randn(2, 3, NUM_BINS + 1, requires_grad=True)
    rewards, ends = torch.tensor([[0.0, 1, 0], [0, 0, -1]]), torch.tensor([[0.0, 0, 1], [0, 0, 0]])
    known = outcome_losses(logits, rewards, ends)
    rewards[1] = ends[1] = nan
    masked = outcome_losses(logits, rewards, ends)
    for all_losses, losses in zip(known, masked, strict=True):
        assert torch.equal(all_losses[0], losses[0]) and (all_losses > 0).all() and not losses[1].any()
    sum(losses.mean() for losses in masked).backward()
    assert logits.grad[0].abs().min() > 0 and not logits.grad[1].any()


def test_head_alone_learns_and_the_network_stays_as_it_is(train_command, tmp_path, network):
    """Stopped and resumed, it is the same head to the bit."""
    options = (*FORCING, "--outcomes", "head", "--init-from", network, "--log-every", 4, "--optimizer", "muon")
    options += ("--learning-rate", 3e-3, "--batch-size", 8)
    assert train_command(*options, "--max-steps", 16, "--out", tmp_path / "unbroken")[0] == 0
    before, after = (WorldModel.from_pretrained(path) for path in (network, tmp_path / "unbroken/checkpoints/latest"))
    assert after.config.outcomes and not before.config.outcomes
    weights = after.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in before.state_dict().items())
    losses = values(tmp_path / "unbroken", "val/outcome_loss")
    assert losses[16] < 0.5 * losses[0]
    assert all(values(tmp_path / "unbroken", name) for name in ("val/reward_error", "val/reward_recall"))
    whole = values(tmp_path / "unbroken", "train/loss")

    assert train_command(*options, "--max-steps", 16, "--accumulate", 2, "--out", tmp_path / "parts")[0] == 0
    parts = values(tmp_path / "parts", "train/loss")
    assert max(abs(whole[step] - parts[step]) for step in whole) < 2e-3

    # The learning rate depends on the whole run's steps: without decay it does not.
    options += ("--decay-fraction", 0)
    assert train_command(*options, "--max-steps", 4)[0] == 0
    assert train_command(*options, "--max-steps", 6, "--resume", "auto")[0] == 0
    assert train_command(*options, "--max-steps", 6, "--out", tmp_path / "whole")[0] == 0
    resumed, never_stopped = (
        WorldModel.from_pretrained(tmp_path / run / "checkpoints/latest").state_dict() for run in ("run", "whole")
    )
    assert all(torch.equal(resumed[name], weight) for name, weight in never_stopped.items())


def test_network_and_head_learn_together_and_resume(train_command, tmp_path, network, monkeypatch):
    options = (*FORCING, "--outcomes", "all", "--log-every", 1, "--decay-fraction", 0, "--rollout-every", 4)
    assert train_command(*options, "--max-steps", 4)[0] == 0
    assert train_command(*options, "--max-steps", 8, "--resume", "auto")[0] == 0
    run = tmp_path / "run"
    model = WorldModel.from_pretrained(run / "checkpoints" / "latest")
    assert model.outcome_head.out.weight.abs().max() > 0 and model.final_layer.linear.weight.abs().max() > 0
    # A run without heads starts from the network of a checkpoint that has one.
    init = ("--init-from", run / "checkpoints" / "latest", "--out", tmp_path / "b")
    succeeded(train_command(*FORCING, "--max-steps", 1, *init))
    assert not WorldModel.from_pretrained(tmp_path / "b" / "checkpoints" / "latest").config.outcomes


@pytest.mark.slow
def test_two_ranks_train_heads_as_one_process_does(train_command, tmp_path):
    options = (*FEW, *map(str, FORCING), "--max-steps", "20", "--bf16", "False", "--outcomes", "all")
    two = start(tmp_path / "two", train_command.data, *options, ranks=2)
    assert train_command(*options, "--out", tmp_path / "one")[0] == 0
    finish(two)
    for name in ("train/loss", "val/loss", "val/outcome_loss", "val/reward_error"):
        one, both = (values(tmp_path / run, name) for run in ("one", "two"))
        assert one.keys() == both.keys() != set() and max(abs(one[step] - both[step]) for step in one) < 1e-3
    assert_same_run(tmp_path / "one", tmp_path / "one")


def test_mistakes_are_one_line(train_command, tmp_path, make_record, write_set):
    refused(train_command("--outcomes", "head"), "--init-from")
    refused(train_command("--outcomes", "all"), "noise_levels is 'uniform'", "teacher-forcing")
    for split in ("train", "val"):
        data = write_set(tmp_path / "set", [make_record(20, seed) for seed in range(8)], split)
    options = ("--outcomes", "all", "--data", data, "--patch-size", 8, *FORCING)
    refused(train_command(*options), "hold no rewards and no ends", "--outcomes off")
