from dataclasses import replace

import pytest
import torch
from tiny import TINY, make_sampler, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.inference import pack
from dreamrun.model.outcome_head import NUM_BINS, reward_bins, to_outcome, two_hot

WITH_HEAD = replace(TINY, outcomes=True)


def test_the_mean_of_a_two_hot_reward_is_the_reward():
    rewards = torch.tensor([[-1.0, 0.0, 1.0], [0.3, 10.0, -1234.5]])
    weights = two_hot(rewards)
    assert weights.shape == (2, 3, NUM_BINS) and weights.min() >= 0
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights @ reward_bins(), rewards, rtol=1e-4, atol=1e-5)
    assert two_hot(torch.tensor(0.0)).argmax() == NUM_BINS // 2
    assert two_hot(torch.tensor(1e12)).argmax() == NUM_BINS - 1  # beyond the last bin


def test_before_training_there_is_no_reward_and_hardly_an_end():
    model = WorldModel(WITH_HEAD)
    outcome = to_outcome(model.outcome_logits(torch.randn(5, TINY.num_patches, TINY.dim), torch.zeros(5, 3)))
    assert outcome.reward.abs().max() < 1e-3 and (outcome.end < 0.01).all()


def test_logits_of_bins_that_never_occur_stay_without_weight():
    """A head that learns rewards of 1 from few examples must not expect 5e8."""
    model = WorldModel(WITH_HEAD)
    tokens, actions = torch.randn(64, TINY.num_patches, TINY.dim), torch.zeros(64, 3)
    rewards = (torch.arange(64) % 4 == 0).float()
    optimizer = torch.optim.AdamW(model.outcome_head.parameters(), 1e-2)
    for _ in range(30):
        logits = model.outcome_logits(tokens, actions)[:, :-1]
        loss = -(two_hot(rewards) * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (to_outcome(model.outcome_logits(tokens, actions)).reward - rewards).abs()
    assert error.mean() < 0.2 and error.max() < 2


@pytest.mark.parametrize("num_prompt", [1, 3])
def test_the_cache_and_the_reference_give_the_same_outcomes_and_frames(num_prompt):
    """Reward logits are random here, so that rewards are huge: they are compared by their ratio."""
    model = random_model(WITH_HEAD)
    frames, _, actions = random_inputs(WITH_HEAD, num_frames=5)
    samplers = [make_sampler(model, 2, cache=cache) for cache in (True, False)]
    packed = make_sampler(pack(random_model(WITH_HEAD)), 2)
    for sampler in (*samplers, packed):
        sampler.reset(frames[:, :num_prompt], actions[:, :num_prompt])
    torch.testing.assert_close(
        *(each.outcome(actions[:, num_prompt]).end for each in (packed, samplers[0])), atol=1e-4, rtol=0
    )
    for action in actions[:, num_prompt:].unbind(1):
        cached, reference = (sampler.outcome(action) for sampler in samplers)
        assert cached.reward.shape == cached.end.shape == (2,)
        torch.testing.assert_close(cached.end, reference.end, atol=1e-4, rtol=0)
        torch.testing.assert_close(cached.reward, reference.reward, atol=100, rtol=1e-2)
        other = samplers[0].outcome(action.roll(1, dims=-1))
        assert (other.end - cached.end).abs().max() > 1e-4  # the action matters
        torch.testing.assert_close(*(sampler.step(action) for sampler in samplers), atol=1e-4, rtol=0)


def test_a_head_changes_no_frame():
    model, plain = random_model(WITH_HEAD), random_model()
    weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("outcome_head.")}
    plain.load_state_dict(weights)
    frames, levels, actions = random_inputs()
    assert torch.equal(model(frames, levels, actions), plain(frames, levels, actions))
    samplers = [make_sampler(each, 2) for each in (model, plain)]
    for sampler in samplers:
        sampler.reset(frames[:, :2], actions[:, :2])
    for action in actions[:, 2:].unbind(1):
        samplers[0].outcome(action)
        assert torch.equal(*(sampler.step(action) for sampler in samplers))


def test_outcomes_by_slot_and_after_a_rebuild():
    model = random_model(WITH_HEAD)
    frames, _, actions = random_inputs(WITH_HEAD, batch=3)
    sampler = make_sampler(model, 2)
    sampler.reset(frames[:, :2], actions[:, :2], slots=[0, 2, 5])
    sampler.step(actions[:, 2])
    sampler.step(actions[1:2, 3], slots=[2])
    together = sampler.outcome(actions[:, 4])
    for row, slot in enumerate([0, 2, 5]):
        alone = sampler.outcome(actions[row : row + 1, 4], slots=[slot])
        torch.testing.assert_close(alone.end, together.end[row : row + 1], atol=1e-5, rtol=0)
    sampler.rebuild()
    torch.testing.assert_close(sampler.outcome(actions[:, 4]).end, together.end, atol=1e-4, rtol=0)
    other = random_model(WITH_HEAD, seed=1)
    sampler.rebuild(other)
    assert (sampler.outcome(actions[:, 4]).end - together.end).abs().max() > 1e-4


def test_the_head_sends_no_gradient_into_the_network():
    model = random_model(WITH_HEAD).train()
    frames, levels, actions = random_inputs(WITH_HEAD)
    prediction, tokens = model(frames, levels, actions, with_tokens=True)
    logits = model.outcome_logits(tokens[:, :4], actions[:, :4])
    assert prediction.shape == frames.shape and logits.shape == (2, 4, NUM_BINS + 1)
    logits.square().sum().backward()
    assert all(
        (weight.grad is not None) == name.startswith("outcome_head.") for name, weight in model.named_parameters()
    )


def test_errors():
    frames, _, actions = random_inputs()
    sampler = make_sampler(random_model())
    with pytest.raises(ValueError, match="step before reset"):
        sampler.outcome(actions[:, 0])
    sampler.reset(frames[:, :2], actions[:, :2])
    with pytest.raises(ValueError, match="no outcome head"):
        sampler.outcome(actions[:, 2])
    sampler = make_sampler(random_model(WITH_HEAD))
    sampler.reset(frames[:, :0])
    with pytest.raises(ValueError, match="no frame yet"):
        sampler.outcome(actions[:, 0])
