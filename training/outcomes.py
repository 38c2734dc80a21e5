"""The loss of the outcome head, and its validation.

Shapes: B clips, T frames, A action vector, K reward bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrun.data.dataset import Batch
from dreamrun.data.outcomes import Outcomes
from dreamrun.data.pixels import to_float
from dreamrun.model.config import ModelConfig
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma
from dreamrun.model.dit import WorldModel
from dreamrun.model.outcomes import reward_bins, to_outcome, two_hot
from dreamrun.training.loss import Noise, validation_noise


@dataclass(frozen=True)
class OutcomeTargets:
    """`data.outcomes.Outcomes` on the device."""

    next_actions: Tensor  # (B, T, A)
    rewards: Tensor  # (B, T), NaN: unknown
    ends: Tensor  # (B, T) 0 or 1, NaN: unknown
    weights: Tensor  # (B,) of the clips

    @classmethod
    def from_batch(cls, outcomes: Outcomes, device: torch.device) -> OutcomeTargets:
        """Move the outcomes of a batch to the device."""
        arrays = (outcomes.next_actions, outcomes.rewards, outcomes.ends, outcomes.weights)
        return cls(*(torch.as_tensor(array).to(device) for array in arrays))

    def chunk(self, num_parts: int) -> list[OutcomeTargets]:
        """The targets of each micro-batch."""
        tensors = (self.next_actions, self.rewards, self.ends, self.weights)
        return [OutcomeTargets(*parts) for parts in zip(*(tensor.chunk(num_parts) for tensor in tensors), strict=True)]


class OutcomeReader(nn.Module):
    """A network as the diffusion loss calls it, which keeps the outcome logits of the context, the first frames.

    Teacher forcing runs the network over a clean and a noisy copy of a clip. So the logits cost no pass of their own.

    Args:
        network: a `WorldModel` with an outcome head, possibly wrapped in DDP.
        next_actions: (B, T, A).
    """

    def __init__(self, network: nn.Module, next_actions: Tensor):
        super().__init__()
        self.network, self.next_actions = network, next_actions
        self.logits: Tensor | None = None  # (B, T, K + 1)

    def forward(self, *args) -> Tensor:
        """The network's prediction."""
        prediction, self.logits = self.network(*args, next_actions=self.next_actions)
        return prediction


def read_outcomes(
    network: nn.Module, config: ModelConfig, x0: Tensor, actions: Tensor, noise: Noise, next_actions: Tensor
) -> Tensor:
    """Outcome logits (B, T, K + 1) of clips, in a pass over their frames with the noise of a context.

    Args:
        network: a `WorldModel` with an outcome head, possibly wrapped in DDP.
        x0: (B, T, C, H, W) in [-1, 1].
        actions: (B, T, A), each leads into its frame.
        noise: with `context_levels`.
        next_actions: (B, T, A), each is taken at its frame.
    """
    assert noise.context_levels is not None and noise.context_eps is not None
    context = add_noise(x0, noise.context_eps, frame_alpha_sigma(noise.context_levels, config.schedule))
    return network(context, noise.context_levels, actions, next_actions=next_actions)[1]


def outcome_losses(logits: Tensor, targets: OutcomeTargets) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the reward and of the end at each frame, both (B, T); 0 where the target is unknown.

    The reward's target is two-hot over symlog bins (arXiv 2301.04104, eq. 10).

    Args:
        logits: (B, T, K + 1).
    """
    knows_reward, knows_end = targets.rewards.isfinite(), targets.ends.isfinite()
    rewards, ends = targets.rewards.nan_to_num(), targets.ends.nan_to_num()
    reward_loss = -(two_hot(rewards) * logits[..., :-1].log_softmax(-1)).sum(-1)
    end_loss = F.binary_cross_entropy_with_logits(logits[..., -1], ends, reduction="none")
    return reward_loss * knows_reward, end_loss * knows_end


def mean_outcome_loss(logits: Tensor, targets: OutcomeTargets) -> Tensor:
    """The mean over all frames of both losses, weighted by clip, a scalar."""
    reward_loss, end_loss = outcome_losses(logits, targets)
    return ((reward_loss + end_loss) * targets.weights[:, None]).mean()


OUTCOME_SUMS = 8  # numbers that `outcome_sums` returns


@torch.no_grad()
def outcome_sums(model: WorldModel, batches: list[Batch]) -> Tensor:
    """Sums for `outcome_metrics`, float64 (OUTCOME_SUMS,). Sums of several ranks may be added or averaged.

    A reward is predicted where the bin of reward 0 has less than half of the probability.
    """
    sums = torch.zeros(OUTCOME_SUMS, dtype=torch.float64)
    zero_bin = int(reward_bins().abs().argmin())
    for batch in batches:
        assert batch.outcomes is not None, "a ClipDataset with outcomes"
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        targets, x0 = OutcomeTargets.from_batch(batch.outcomes, model.device), to_float(frames)
        noise = validation_noise(x0.shape, batch.seeds, model.device)
        logits = read_outcomes(model, model.config, x0, actions, noise, targets.next_actions)
        reward_loss, end_loss = outcome_losses(logits, targets)
        known, rewards = targets.rewards.isfinite(), targets.rewards.nan_to_num()
        error = (to_outcome(logits).reward - rewards).abs() * known
        is_event = (rewards != 0) & known
        is_predicted = (logits[..., :-1].softmax(-1)[..., zero_bin] < 0.5) & known
        columns = (
            *(reward_loss, known, end_loss, targets.ends.isfinite(), error),
            *(is_event & is_predicted, is_predicted, is_event),
        )
        sums += torch.stack([column.sum(dtype=torch.float64) for column in columns]).cpu()
    return sums


def outcome_metrics(sums: Tensor) -> dict[str, float]:
    """Means over the frames whose outcome is known, from `outcome_sums`; NaN where there are none."""
    reward_loss, num_rewards, end_loss, num_ends, error, num_right, num_predicted, num_events = sums.tolist()

    def ratio(numerator: float, denominator: float) -> float:
        return numerator / denominator if denominator else float("nan")

    losses = ratio(reward_loss, num_rewards), ratio(end_loss, num_ends)
    return {
        "val/outcome_loss": sum(loss for loss in losses if loss == loss),
        "val/reward_loss": losses[0],
        "val/end_loss": losses[1],
        "val/reward_error": ratio(error, num_rewards),
        "val/reward_precision": ratio(num_right, num_predicted),
        "val/reward_recall": ratio(num_right, num_events),
    }
