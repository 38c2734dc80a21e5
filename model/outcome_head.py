"""The outcome head: reward and end of an episode, read off the tokens of a finished frame.

Shapes: (...) leading axes, P patches in a frame, D width, A action vector, K reward bins.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from dreamrun.model.config import ModelConfig

NUM_BINS, MAX_SYMLOG = 255, 20.0  # K reward bins, evenly spaced in symlog space from -20 to 20 (arXiv 2301.04104)
HIDDEN, NUM_QUERIES = 64, 4  # width of the head, and vectors that summarise a frame
# Before training, the probability of a bin falls as exp(-3 |symlog reward|), faster than its reward grows. So bins of
# rewards that never occur, up to 5e8, add nothing to the expected reward.
BIAS_SLOPE = 3.0
END_BIAS = -5.0  # before training, an episode ends with probability 0.7 %


@dataclass(frozen=True)
class Outcome:
    """What an action brings at a frame."""

    reward: Tensor  # float32 (...), the expected reward
    end: Tensor  # float32 (...), the probability that the episode ends


class OutcomeHead(nn.Module):
    """Tokens of a frame, and the action taken at it -> reward and end.

    It reads the action and not the next frame, because records have no frame after the end of an episode.
    """

    def __init__(self, dim: int, num_patches: int, num_actions: int):
        super().__init__()
        self.token_embedding = nn.Linear(dim, HIDDEN)
        self.action_embedding = nn.Linear(num_actions, HIDDEN)
        self.position_embedding = nn.Parameter(torch.empty(num_patches, HIDDEN))
        self.scores = nn.Linear(HIDDEN, NUM_QUERIES)
        self.mlp = nn.Sequential(nn.Linear(NUM_QUERIES * HIDDEN, 2 * HIDDEN), nn.GELU())
        self.out = nn.Linear(2 * HIDDEN, NUM_BINS + 1)

    def reset_parameters(self) -> None:
        """What Xavier initialisation of the linear maps leaves to do: the outcome is then 0, with a rare end."""
        nn.init.normal_(self.position_embedding, std=0.02)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias[:-1] = -BIAS_SLOPE * torch.linspace(-MAX_SYMLOG, MAX_SYMLOG, NUM_BINS).abs()
            self.out.bias[-1] = END_BIAS

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Tokens (..., P, D) and action vectors (..., A) -> logits of the reward bins and of the end, (..., K + 1)."""
        actions = self.action_embedding(actions.to(tokens.dtype))[..., None, :]
        hidden = self.token_embedding(F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6))
        hidden = F.gelu(hidden + self.position_embedding + actions)
        weights = self.scores(hidden).softmax(dim=-2)  # attention pooling: each query chooses patches
        pooled = einsum(weights, hidden, "... p q, ... p h -> ... q h").flatten(-2)
        return self.out(self.mlp(pooled)).float()


def reward_bins(device: torch.device | None = None) -> Tensor:
    """The rewards of the bins, float32 (K,): `symexp(s) = sign(s) (exp |s| - 1)` for evenly spaced s."""
    s = torch.linspace(-MAX_SYMLOG, MAX_SYMLOG, NUM_BINS, device=device)
    return s.sign() * s.abs().expm1()


def two_hot(rewards: Tensor) -> Tensor:
    """Rewards (...) -> weights of the bins (..., K): the two nearest bins share the weight so that their mean is exact.

    arXiv 2301.04104, eq. 9 and 10. Rewards beyond the last bin count as its own.
    """
    bins = reward_bins(rewards.device)
    rewards = rewards.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, rewards.contiguous()).clamp(1, NUM_BINS - 1)
    low, high = bins[above - 1], bins[above]
    share = ((rewards - low) / (high - low))[..., None]
    return F.one_hot(above - 1, NUM_BINS) * (1 - share) + F.one_hot(above, NUM_BINS) * share


def to_outcome(logits: Tensor) -> Outcome:
    """Logits of the head, (..., K + 1) -> the outcome."""
    # In double precision, as bins of opposite rewards must cancel out.
    precise = logits[..., :-1].to("cpu" if logits.device.type == "mps" else logits.device).double()  # mps has no double
    rewards = precise.softmax(-1) @ reward_bins(precise.device).double()
    return Outcome(rewards.float().to(logits.device), logits[..., -1].sigmoid())


def outcome_losses(logits: Tensor, rewards: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the reward and of the end at each frame, both (B, T); 0 where the target is unknown.

    The reward's target is two-hot over symlog bins (arXiv 2301.04104, eq. 10).

    Args:
        logits: (B, T, K + 1).
        rewards, ends: (B, T), NaN where unknown; an end is 0 or 1.
    """
    reward_loss = -(two_hot(rewards.nan_to_num()) * logits[..., :-1].log_softmax(-1)).sum(-1)
    end_loss = F.binary_cross_entropy_with_logits(logits[..., -1], ends.nan_to_num(), reduction="none")
    return reward_loss * rewards.isfinite(), end_loss * ends.isfinite()


def check_outcome_head(config: ModelConfig) -> None:
    """Raises ValueError if there is no outcome head for frames of the config's size."""
    if not config.outcomes:
        size = f"{config.frame_width}x{config.frame_height}"
        raise ValueError(f"there is no outcome head for frames of {size}: train one with --outcomes head --init-from")
