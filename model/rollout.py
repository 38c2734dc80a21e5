"""Rollouts: frames that a sampler generates one after another, under given actions.

Shapes: S rollouts, P prompt frames, T frames in all, C channels, H x W pixels, A action vector.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from dreamrun.model.sampler import Sampler


def rollout(
    sampler: Sampler, prompt: Tensor, actions: Tensor, progress: str = "", seeds: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Continue a prompt under given actions, and yield the new frames one by one, each (S, C, H, W) in [-1, 1].

    Args:
        prompt: (S, P, C, H, W) in [-1, 1].
        actions: (S, T, A); `actions[:, t]` leads into frame t, those of the prompt included.
        progress: title of a progress bar; "" shows none.
        seeds: one for the noise of each rollout; None: the sampler's own.
    """
    num_prompt = prompt.shape[1]
    sampler.reset(prompt, actions[:, :num_prompt], seeds=seeds)
    for action in tqdm(actions[:, num_prompt:].unbind(1), desc=progress, unit=" frames", disable=not progress):
        yield sampler.step(action)
