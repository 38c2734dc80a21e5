"""Self-forcing: training on context frames that the sampler has generated, one after another, as in a real rollout.

Scheduled sampling (`training.loss`) predicts all frames of a clip at once, in at most three passes. So its errors are
those of a short rollout of single steps. Here they are what the sampler really leaves behind, up to a window deep: a
lost ball, a blurred wall. The targets stay the true frames, so the network learns the way back. The idea is that of
Self-Forcing (arXiv 2506.08009), with the ordinary loss in place of a distribution matching one.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.pixels import to_levels
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import prepare_for_inference
from dreamrun.model.sampler import Sampler

MAX_PROMPT_FRAMES = 8  # true frames at the start of a clip, at least one


def generate_context(
    ema: WorldModel, x0: Tensor, actions: Tensor, seeds: np.ndarray, chosen: Tensor, bf16: bool | None
) -> Tensor:
    """Replace the frames of some clips by a rollout from their first ones, which stay, under their own actions.

    A clip's rollout depends only on the weights, the clip and its seed.

    Args:
        ema: the averaged weights, which will be saved and played.
        x0: (B, T, C, H, W) in [-1, 1].
        actions: (B, T, A).
        seeds: uint64 (B,), of the number of prompt frames (1 to 8, at most half the clip) and of the sampler's noise.
        chosen: (B,) bool, the clips.
        bf16: of the sampler; None: if the device has native bfloat16.

    Returns:
        Shaped as x0, rounded to 8 bits as a rollout is; `x0` itself if no clip is chosen.
    """
    rows = torch.nonzero(chosen).flatten().tolist()
    if not rows:
        return x0
    draws = [np.random.default_rng(int(seeds[row])) for row in rows]
    max_prompt = max(1, min(MAX_PROMPT_FRAMES, x0.shape[1] // 2))
    prompts = np.array([int(rng.integers(1, max_prompt + 1)) for rng in draws])
    noise_seeds = [int(rng.integers(2**63)) for rng in draws]
    context, clips = x0.clone(), x0[rows]
    sampler = Sampler(prepare_for_inference(ema, x0.device, bf16))
    for length in np.unique(prompts):  # slot i holds the clip rows[i]
        slots = np.flatnonzero(prompts == length).tolist()
        sampler.reset(
            clips[slots, :length], actions[rows][slots, :length], slots, [noise_seeds[slot] for slot in slots]
        )
    for t in range(int(prompts.min()), x0.shape[1]):
        slots = np.flatnonzero(prompts <= t).tolist()
        generated = sampler.step(actions[rows][slots, t], slots)
        context[[rows[slot] for slot in slots], t] = to_levels(generated) / 127.5 - 1
    return context
