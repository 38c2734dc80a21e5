"""Context frames that the network has generated itself, as those of a rollout are.

In a rollout the context consists of generated frames, in training of real frames. This difference makes rollouts drift;
training on generated context reduces it. The targets stay the true frames, so the network learns the way back.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.batch import Batch, to_levels
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import autocast, prepare_for_inference
from dreamrun.model.loss import Corruption, Noise, causal_corruption, diffusion_loss
from dreamrun.model.sampler import Sampler
from dreamrun.training.train_config import ResolvedConfig

SCHEDULED_SAMPLING_PASSES = 3
MAX_PROMPT_FRAMES = 8  # self-forcing: true frames at the start of a clip, at least one


class SelfForcing:
    """Rollouts of the averaged weights from the first frames of clips, under the clips' actions.

    Scheduled sampling has errors like those of a short rollout of single steps. Here they are what the sampler really
    leaves behind, up to a window deep: a lost ball, a blurred wall. The idea is that of Self-Forcing (arXiv
    2506.08009), with the ordinary loss in place of a distribution matching one. A clip's seed draws the number of its
    prompt frames (1 to 8, at most half the clip) and the sampler's noise.

    On a GPU nothing waits for the device, and one sampler, with its captured graph, serves the whole run.

    Args:
        ema: the averaged weights, which may change between calls.
        bf16, packed: as for `prepare_for_inference`.
    """

    def __init__(self, ema: WorldModel, bf16: bool | None, packed: bool = True):
        self._ema, self._bf16, self._packed = ema, bf16, packed
        self._sampler: Sampler | None = None
        self._can_copy = False

    def __call__(self, x0: Tensor, actions: Tensor, seeds: np.ndarray) -> Tensor:
        """Roll out clips x0 (B, T, C, H, W) under actions (B, T, A).

        Returns:
            (B, T, C, H, W), rounded to 8 bits as a rollout is.
        """
        draws = [np.random.default_rng(int(seed)) for seed in seeds]
        max_prompt = max(1, min(MAX_PROMPT_FRAMES, x0.shape[1] // 2))
        prompts = np.array([int(rng.integers(1, max_prompt + 1)) for rng in draws])
        noise_seeds = np.array([int(rng.integers(2**63)) for rng in draws])
        # The shortest prompts get the first slots, so that the rollouts that have begun are the first rows.
        order = np.argsort(prompts, kind="stable")
        rows = torch.from_numpy(order).to(x0.device, non_blocking=True)
        frames, actions = x0[rows], actions[rows]
        starts = np.searchsorted(prompts[order], np.arange(max_prompt + 2))  # of the slots of each prompt length
        sampler = self._follow_weights()
        sampler.restart(len(x0), *x0.shape[-2:])
        for length, (first, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            if first < end:
                prompt = frames[first:end, :length], actions[first:end, :length]
                sampler.start(*prompt, range(first, end), noise_seeds[order[first:end]].tolist())
        for t in range(int(prompts.min()), x0.shape[1]):
            begun = int(starts[min(t, max_prompt) + 1])
            generated = sampler.step(actions[:begun, t], range(begun))
            frames[:begun, t] = to_levels(generated) / 127.5 - 1
        return torch.empty_like(frames).index_copy_(0, rows, frames)

    def _follow_weights(self) -> Sampler:
        """The sampler with the averaged weights as they are now."""
        if self._sampler is not None and self._can_copy:
            with torch.no_grad():
                torch._foreach_copy_([*self._sampler.model.parameters()], [*self._ema.parameters()])
            return self._sampler
        model = prepare_for_inference(self._ema, self._ema.device, self._bf16, self._packed)
        # Weights that are laid out for a CPU's matrix unit have to be laid out anew.
        self._can_copy = len([*model.parameters()]) == len([*self._ema.parameters()])
        self._sampler = Sampler(model)
        return self._sampler


def generated_context(
    model: WorldModel,
    self_forcing: SelfForcing,
    clips: Batch,
    noise: Noise,
    corruption: Corruption,
    config: ResolvedConfig,
) -> Tensor | None:
    """Context frames, shaped as x0, of which some are generated; None: the clips' own frames.

    Clips with the highest `clip_uniform` get scheduled sampling, so that few clips get both this and action dropout,
    and those below them self-forcing.

    Args:
        corruption: of the clips, whose hidden actions stay hidden.
    """
    share, forced_share = config.scheduled_sampling, config.self_forcing
    if not share and not forced_share:
        return None
    x0, actions, uniform = clips.x0, corruption.hide_actions(clips.actions), noise.clip_uniform
    frames = x0.clone()
    forced = torch.nonzero((uniform < 1 - share) & (uniform >= 1 - share - forced_share)).flatten()
    if len(forced):
        rows = forced.to(x0.device, non_blocking=True)
        frames.index_copy_(0, rows, self_forcing(x0[rows], actions[rows], clips.seeds[forced.numpy()]))
    if share:
        # An autocast block of its own, because autocast caches weights without gradients in the first one and forgets
        # them at its end.
        with torch.no_grad(), autocast(x0.device, config.bf16):
            _predict_in_parallel(model, x0, actions, noise, replace(corruption, context_frames=frames), config)
    return frames


def _predict_in_parallel(
    model: WorldModel, x0: Tensor, actions: Tensor, noise: Noise, corruption: Corruption, config: ResolvedConfig
) -> None:
    """Scheduled sampling: replace context frames of the chosen clips by the network's own predictions, in place.

    One forward pass predicts all frames of a clip, at other noise levels than in the loss, and rounds them to 8 bits,
    as a rollout does. The next pass takes this result as context: errors build on errors without a frame-by-frame
    rollout (parallel scheduled sampling, arXiv 1906.04331). A third of the chosen clips gets one pass, a third two, a
    third three.
    """
    frames, text, share = corruption.context_frames, corruption.text, config.scheduled_sampling
    assert frames is not None
    for number in range(SCHEDULED_SAMPLING_PASSES):
        chosen = torch.nonzero(noise.clip_uniform >= 1 - share * (1 - number / SCHEDULED_SAMPLING_PASSES)).flatten()
        if not len(chosen):
            break
        rows = chosen.to(x0.device, non_blocking=True)
        rotated_uniform = (noise.level_uniform[rows] + (number + 1) / (SCHEDULED_SAMPLING_PASSES + 1)) % 1
        of_pass = replace(
            causal_corruption(noise.select(chosen), config.level_distribution.levels(rotated_uniform)),
            context_frames=frames[rows],
            text=None if text is None else text[rows],
        )
        predicted = diffusion_loss(model, model.config, x0[rows], actions[rows], of_pass).x0
        frames.index_copy_(0, rows, to_levels(predicted) / 127.5 - 1)
