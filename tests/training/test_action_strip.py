"""The action strip: one prompt and one noise, and futures that differ by their actions alone."""

import numpy as np
import pytest
import torch
from playing import random_checkpoint

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.clips import held_out_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.sampler import rollout
from dreamrun.training.validation import ROLLOUT_PROMPT, action_rollouts, action_strip


@pytest.fixture(scope="module")
def model(tmp_path_factory, pong_set):
    return WorldModel.from_pretrained(random_checkpoint(tmp_path_factory.mktemp("strip"), pong_set)).eval()


def test_columns_differ_by_their_actions_alone(model, pong_set):
    dataset = ClipDataset(pong_set, "val", 6)
    rollouts, names = action_rollouts(model, dataset, 8)
    assert names == ["no action", "noop", "up", "down"]
    assert rollouts.shape == (4, 8, 64, 64, 3)
    assert (rollouts[:, :ROLLOUT_PROMPT] == rollouts[:1, :ROLLOUT_PROMPT]).all()
    space, first = dataset.metadata.actions, rollouts[0, ROLLOUT_PROMPT:].astype(int)
    assert all(np.abs(other[ROLLOUT_PROMPT:] - first).max() > 2 for other in rollouts[1:])
    # The third column is what a player sees who holds this key.
    actions = np.concatenate((held_out_clips(dataset, 1, ROLLOUT_PROMPT).actions[0], np.full(4, space.index("up"))))
    vectors, prompt = torch.from_numpy(space.vectors(actions[None])), to_float(rollouts[2:3, :ROLLOUT_PROMPT])
    alone = [to_uint8(frame)[0] for frame in rollout(Sampler(model), prompt, vectors, seeds=[0])]
    assert np.abs(np.stack(alone).astype(int) - rollouts[2, ROLLOUT_PROMPT:]).max() <= 1
    assert action_strip(rollouts, names).shape == (8, 128 + 18, 4 * 128 + 3 * 6, 3)


def test_short_records_have_no_strip(model, tmp_path, write_set, make_record):
    data = write_set(tmp_path, [make_record(ROLLOUT_PROMPT - 1)])
    assert action_rollouts(model, ClipDataset(data, "train", 2), 8) is None
