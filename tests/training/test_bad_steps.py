"""Steps whose loss or gradient is not finite."""

import numpy as np
import torch
from runs import values
from tiny import refused

from dreamrun.training.state import StepStats, find_start, list_checkpoints, load_state


def test_bad_steps_are_counted_and_change_nothing(train_command, tmp_path):
    weights = {}

    def bad_at_three_and_six(state, batch):
        weights[state.step] = [parameter.detach().clone() for parameter in state.model.parameters()]
        if state.step in (3, 6):
            batch.actions.fill_(np.nan if state.step == 3 else np.inf)

    options = ("--max-steps", 8, "--log-every", 1, "--max-bad-steps", 2)
    assert train_command(*options, before_step=bad_at_three_and_six)[0] == 0
    assert list(values(tmp_path / "run", "train/bad_steps").values()) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(values(tmp_path / "run", "train/loss")) == [1, 2, 3, 5, 6, 8]
    for number in range(7):
        same = all(torch.equal(a, b) for a, b in zip(weights[number], weights[number + 1], strict=True))
        assert same == (number in (3, 6))


def test_consecutive_bad_steps_end_the_run(train_command, tmp_path):
    def bad_from_five_on(state, batch):
        if state.step >= 5:
            batch.actions.fill_(np.nan)

    result = train_command("--max-steps", 50, "--max-bad-steps", 3, before_step=bad_from_five_on)
    refused(result, "steps in a row up to step 8", "not finite", "--max-bad-steps 3", "step_0000004")
    assert load_state(find_start("auto", tmp_path / "run"))["step"] == 4


def test_weights_that_are_not_finite_are_not_saved(train_command, tmp_path):
    def break_at_six(state, batch):
        if state.step == 6:
            next(state.model.parameters()).data[0] = torch.inf

    result = train_command("--max-steps", 50, "--max-bad-steps", 30, "--rollout-every", 100, before_step=break_at_six)
    refused(result, "the weights are no longer finite at step 8: continue from", "step_0000004")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000004"]


def test_counts_survive_a_checkpoint():
    stats, nan, one = StepStats(torch.device("cpu")), torch.tensor(torch.nan), torch.tensor(1.0)
    assert [stats.add(loss, norm).item() for loss, norm in ((one, one), (nan, one), (one, nan))] == [0, 1, 1]
    resumed = StepStats(torch.device("cpu"))
    resumed.load_state_dict({name: value.clone() for name, value in stats.state_dict().items()})
    resumed.add(nan, nan)
    resumed.add(one * 3, one)
    summary = resumed.read()
    assert (summary.mean_loss, summary.num_bad_steps, summary.max_bad_streak) == (2.0, 3, 3)
    assert np.isnan(resumed.read().mean_loss) and stats.max_bad_streak() == 2
