"""Validation: the loss on held-out clips, PSNR and SSIM over the whole split, rollouts and action strips.

Shapes: S samples, T frames, C channels, H x W pixels, A action vector, K columns of an action strip.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from dreamrun.data.batch import Batch, to_float, to_levels, to_uint8
from dreamrun.data.clips import held_out_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import batched_ssim, metrics_by_frame, psnr_from_mse
from dreamrun.data.mixture import Mixture
from dreamrun.data.outcomes import Outcomes
from dreamrun.data.video import comparison, grid, side_by_side, titled, upscale
from dreamrun.data.workers import prefetch
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import select_game
from dreamrun.model.inference import autocast, prepare_for_inference
from dreamrun.model.loss import context_tokens, diffusion_loss, draw_noise, validation_corruption
from dreamrun.model.outcome_head import outcome_losses, reward_bins, to_outcome
from dreamrun.model.sampler import Sampler, rollout
from dreamrun.model.text_encoder import encode_bytes
from dreamrun.training.distributed import all_gather_object, rank, world_size
from dreamrun.training.log import RunLog
from dreamrun.training.tasks import TASKS, Task, TaskOptions
from dreamrun.training.train_config import ResolvedConfig

NOISE_BINS = 8  # the validation loss is also logged for each of these equal ranges of noise levels
ROLLOUT_SAMPLES, ROLLOUT_PROMPT = 4, 4
GRID_FRAMES = 8  # at most so many time steps of a rollout are in its grid
STRIP_COLUMNS = 10  # at most


class Validator:
    """Validates the averaged weights of a run on this rank's part of the val split, and logs the result.

    Args:
        games: the name of each data set's game in the checkpoint.
    """

    def __init__(self, config: ResolvedConfig, ema: WorldModel, data: Mixture, games: Sequence[str], log: RunLog):
        self._config, self._ema, self._data, self._log = config, ema, data, log
        # In logs and files: two data sets of one game are told apart by their number.
        labels = [name if games.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(games, 1)]
        self._sets = list(zip(games, labels, data.sets, strict=True))
        self._batches = fixed_batches(data, config.batch_size, config.val_batches)
        if config.outcomes != "off":
            check_has_outcomes(self._batches, str(config.folders[0]))

    def losses(self, step: int) -> float:
        """Log the losses on fixed clips; return that of the network, or of the outcome head if it alone is trained."""
        config, device = self._config, self._ema.device
        tasks = [task for task in TASKS if task.metric and task.share(config)]
        with autocast(device, config.bf16):
            metrics = validate(self._ema, self._batches, [label for _, label, _ in self._sets], tasks)
        self._log.write(step, metrics)
        num_clips = sum(map(len, self._batches)) * world_size()
        self._log.print(
            f"step {step}: val loss {metrics['val/loss']:.4f} on {num_clips} fixed clips, "
            f"{metrics['val/action_ratio']:.2f} times as high under wrong actions"
        )
        if "val/outcome_loss" in metrics:
            self._log.print(
                f"step {step}: val outcome loss {metrics['val/outcome_loss']:.4f}, mean reward error "
                f"{metrics['val/reward_error']:.4f}, rewards with precision {metrics['val/reward_precision']:.2f} and "
                f"recall {metrics['val/reward_recall']:.2f}"
            )
        return metrics["val/outcome_loss" if config.outcomes == "head" else "val/loss"]

    def epoch(self, step: int, num_epochs: float) -> None:
        """Log loss, PSNR and SSIM over the val split. Each rank measures its own part."""
        config, by_game = self._config, []
        batch_size = config.batch_size // (world_size() * config.accumulate)
        for game, _, data in self._sets:
            model = select_game(self._ema, game)
            batches = prefetch(data.sequential_batches(batch_size, config.epoch_clips))
            with closing(batches), autocast(model.device, config.bf16):
                progress = tqdm(batches, "validating", leave=False, disable=rank() > 0 or None)
                by_game.append(validate_epoch(model, progress))
        loss, psnr, ssim = self._write_by_game(step, by_game).values()
        counts = [data.num_sequential_clips for data in self._data.sets]
        num_clips, num_seen = sum(counts), sum(min(config.epoch_clips or count, count) for count in counts)
        share = f"all {num_clips}" if num_seen == num_clips else f"{num_seen} of the {num_clips}"
        self._log.print(
            f"epoch {num_epochs:.4g}: val loss {loss:.4f} on {share} clips of val, PSNR {psnr:.2f} dB, SSIM {ssim:.3f}"
        )

    def rollouts(self, step: int) -> None:
        """Continue held-out play; log PSNR and write videos."""
        by_game, num_frames = [], self._config.rollout_frames
        for game, label, data in self._sets:
            try:
                model = prepare_for_inference(select_game(self._ema, game), self._ema.device, self._config.bf16)
                result = validation_rollout(model, data, num_frames)
                by_action = action_rollouts(model, data, num_frames + ROLLOUT_PROMPT)
            except RuntimeError as error:
                if world_size() > 1:  # the other ranks wait for this rank's frames
                    raise
                print(f"warning: the rollout at step {step} failed: {error}", file=sys.stderr)
                return
            shown, fps = label if len(self._sets) > 1 else "", data.metadata.fps
            by_game.append({} if result is None else result.metrics)
            if result is not None:
                self._log.write_media(step, "video", result.video, fps, shown)
                self._log.write_media(step, "grid", result.grid, fps, shown)
            if by_action is not None:
                self._log.write_media(step, "actions", action_strip(*by_action), fps, shown)
        if any(by_game):
            self._write_by_game(step, by_game)

    def _write_by_game(self, step: int, by_game: list[dict[str, float]]) -> dict[str, float]:
        """Log and return the mean of each metric over games; of several games, log those of each too."""
        found = list(dict.fromkeys(name for metrics in by_game for name in metrics))
        mean = {name: float(np.mean([metrics[name] for metrics in by_game if name in metrics])) for name in found}
        of_each = {
            f"{name}_{label}": metrics[name]
            for (_, label, _), metrics in zip(self._sets, by_game, strict=True)
            for name in metrics
            if len(by_game) > 1
        }
        self._log.write(step, mean | of_each)
        return mean


def fixed_batches(data: Mixture, batch_size: int, max_batches: int) -> list[Batch]:
    """This rank's part of the first `max_batches` batches, as many of each set. A set of few clips has small ones."""
    fixed, per_set = [], -(-max_batches // len(data.sets))
    for number, part in enumerate(data.sets):
        size = min(batch_size, part.num_clips // world_size() * world_size())
        with closing(part.batches(size)) as batches:
            fixed += [data.widen(batch, number) for batch in islice(batches, per_set)]
    return fixed


def check_has_outcomes(batches: list[Batch], source: str) -> None:
    """Raises ValueError if batches of a data set with outcomes know neither a reward nor whether an episode ended."""
    known = [batch.outcomes for batch in batches if batch.outcomes is not None]
    if not any(outcomes.rewards.isfinite().any() or outcomes.ends.isfinite().any() for outcomes in known):
        raise ValueError(f"the records of {source}/val hold no rewards and no ends: train with --outcomes off")


class Means:
    """Means of named values, such as the losses of frames, over all ranks."""

    def __init__(self):
        self._sums: dict[str, np.ndarray] = {}  # float64 (2,): sum and number of the values of each name

    def add(self, name: str, values: Tensor) -> None:
        """Add values of this rank, of any shape."""
        self._merge({name: np.array([values.sum().item(), values.numel()])})

    def read(self) -> dict[str, float]:
        """The mean of each name; NaN if it has no values. Every rank must call this."""
        whole = Means()
        for sums in all_gather_object(self._sums):
            whole._merge(sums)
        return {name: float(total / number) if number else np.nan for name, (total, number) in whole._sums.items()}

    def _merge(self, sums: dict[str, np.ndarray]) -> None:
        for name, part in sums.items():
            self._sums[name] = self._sums.get(name, 0) + part


@torch.no_grad()
def validate(
    model: WorldModel, batches: Iterable[Batch], names: Sequence[str] = ("",), tasks: Sequence[Task] = ()
) -> dict[str, float]:
    """Mean losses of frames over all ranks' batches.

    Each frame has a uniformly random noise level and attends to a nearly clean context, as in a rollout; the clip's
    seed draws both. `val/action_ratio` is the loss under the actions of another clip divided by the loss: it is above 1
    if the network uses actions. `val/loss_noise_*` are the losses in equal ranges of noise levels.

    Args:
        names: of the data sets, by `Batch.number`; of several, loss and action ratio are also given for each.
        tasks: their losses are measured too.
    """
    means, config = Means(), model.config
    for batch in _on_device(model, batches):
        x0 = batch.x0
        corruption = validation_corruption(x0.shape, batch.seeds, model.device, batch.text)
        losses = diffusion_loss(model, config, x0, batch.actions, corruption).losses
        wrong_action_losses = diffusion_loss(model, config, x0, batch.actions.roll(1, dims=0), corruption).losses
        for suffix in ("", f"_{names[batch.number]}") if len(names) > 1 else ("",):
            means.add(f"val/loss{suffix}", losses)
            means.add(f"val/action_ratio{suffix}", wrong_action_losses)  # divided below
        bins = (corruption.levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        for number in range(NOISE_BINS):
            means.add(f"val/loss_noise_{number / NOISE_BINS:.3f}", losses[bins == number])
        for task in tasks:
            means.add(task.metric, task_losses(model, batch, task))
        if config.outcomes:
            assert batch.outcomes is not None, "a ClipDataset with outcomes"
            tokens = context_tokens(model, config, x0, batch.actions, corruption)
            logits = model.outcome_logits(tokens, batch.outcomes.next_actions)
            for name, values in outcome_values(logits, batch.outcomes).items():
                means.add(name, values)
    metrics = means.read()
    for name in [name for name in metrics if name.startswith("val/action_ratio")]:
        loss = metrics[name.replace("action_ratio", "loss")]
        metrics[name] = metrics[name] / loss if loss else np.nan
    if config.outcomes:
        metrics["val/outcome_loss"] = float(np.nansum([metrics["val/reward_loss"], metrics["val/end_loss"]]))
    return metrics


def task_losses(model: WorldModel, batch: Batch, task: Task) -> Tensor:
    """The loss of each clip in a task (B,). Noise levels are uniform."""
    x0 = batch.x0
    noise = draw_noise(x0.shape, batch.seeds, model.device)
    corruption = replace(task.corrupt(batch.seeds, noise, TaskOptions()), text=batch.text)
    return corruption.clip_losses(diffusion_loss(model, model.config, x0, batch.actions, corruption).losses)


def outcome_values(logits: Tensor, outcomes: Outcomes) -> dict[str, Tensor]:
    """Metric -> its value at each frame whose outcome is known, from the logits of the outcome head (B, T, K + 1).

    A reward is predicted where the bin of reward 0 has less than half of the probability.
    """
    reward_loss, end_loss = outcome_losses(logits, outcomes.rewards, outcomes.ends)
    known, rewards = outcomes.rewards.isfinite(), outcomes.rewards.nan_to_num()
    zero_bin = int(reward_bins().abs().argmin())
    is_event = (rewards != 0) & known
    is_predicted = (logits[..., :-1].softmax(-1)[..., zero_bin] < 0.5) & known
    return {
        "val/reward_loss": reward_loss[known],
        "val/end_loss": end_loss[outcomes.ends.isfinite()],
        "val/reward_error": (to_outcome(logits).reward - rewards).abs()[known],
        "val/reward_precision": is_event[is_predicted],
        "val/reward_recall": is_predicted[is_event],
    }


@torch.no_grad()
def validate_epoch(model: WorldModel, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss of frames, PSNR in dB and mean SSIM over all ranks' batches, with noise as in `validate`.

    PSNR and SSIM are those of the predicted x0, rounded to 8-bit values. The squared error is pooled over all frames,
    as in `psnr`.
    """
    means = Means()
    for batch in _on_device(model, batches):
        x0 = batch.x0
        corruption = validation_corruption(x0.shape, batch.seeds, model.device, batch.text)
        losses, x0_hat, _ = diffusion_loss(model, model.config, x0, batch.actions, corruption)
        predicted = rearrange(to_levels(x0_hat), "b t c h w -> (b t) c h w")
        truth = rearrange(batch.frames, "b t h w c -> (b t) c h w").float()
        means.add("epoch/val_loss", losses)
        means.add("epoch/psnr", (predicted - truth).square().mean(dim=(1, 2, 3)))
        means.add("epoch/ssim", batched_ssim(truth, predicted))
    metrics = means.read()
    return metrics | {"epoch/psnr": float(psnr_from_mse(metrics["epoch/psnr"]))}


def _on_device(model: WorldModel, batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches on the model's device, with their captions if it has learnt words."""
    for batch in batches:
        if model.config.words:
            assert batch.captions is not None
            batch = replace(batch, text=encode_bytes(batch.captions.tolist()))
        yield batch.to(model.device)


@dataclass(frozen=True)
class ValidationRollout:
    """A rollout, and the real play that it is compared with."""

    metrics: dict[str, float]  # PSNR in dB, 1, 4, 8 and 16 frames after the prompt
    video: np.ndarray  # real and generated frames side by side, uint8 (T, H, W, 3)
    grid: np.ndarray  # for each sample a row of real frames and a row of generated ones, uint8 (H, W, 3)


def validation_rollout(model: WorldModel, dataset: ClipDataset, num_frames: int) -> ValidationRollout | None:
    """Continue a few held-out records under their recorded actions. The result is the same for any number of ranks.

    `num_frames` counts the prompt; it is fewer if no record is as long. None if no record is longer than the prompt.
    """
    lengths = dataset.index.lengths
    num_frames = min(num_frames, int(lengths.max()))
    num_samples = min(ROLLOUT_SAMPLES, int((lengths >= num_frames).sum()))
    if num_frames <= ROLLOUT_PROMPT:
        return None
    clips = held_out_clips(dataset, num_samples, num_frames)
    generated = _continue(model, clips.frames, clips.space.vectors(clips.actions))
    psnr_by_frame = metrics_by_frame(clips.frames[:, ROLLOUT_PROMPT:], generated[:, ROLLOUT_PROMPT:])["psnr"]
    psnr_after = {n: psnr_by_frame[n - 1] for n in (1, 4, 8, 16) if n <= len(psnr_by_frame)}
    grid_times = list(range(ROLLOUT_PROMPT - 1, num_frames, max(1, num_frames // GRID_FRAMES)))
    return ValidationRollout(
        metrics={f"rollout/psnr_{n}": value for n, value in psnr_after.items() if value},
        video=comparison(clips.frames, generated, clips.actions, clips.space),
        grid=grid(clips.frames, generated, grid_times),
    )


def action_rollouts(model: WorldModel, dataset: ClipDataset, num_frames: int) -> tuple[np.ndarray, list[str]] | None:
    """Rollouts from one held-out prompt, equal but for their actions; the same for any number of ranks.

    Returns:
        uint8 (K, T, H, W, C), and a name for each: of no action first, then of each action that is held.
        None if there are no actions, or no record is as long as the prompt.
    """
    space = dataset.metadata.actions
    if space.unconditional or dataset.index.lengths.max() < ROLLOUT_PROMPT:
        return None
    clip = held_out_clips(dataset, 1, ROLLOUT_PROMPT)
    held = space.held_actions()[: STRIP_COLUMNS - 1]
    actions = np.concatenate((space.unknown(1), held))
    future = np.repeat(actions[:, None], num_frames - ROLLOUT_PROMPT, axis=1)
    prompts, past = (np.repeat(part, len(actions), axis=0) for part in (clip.frames, clip.actions))
    vectors = space.vectors(np.concatenate((past, future), axis=1))
    generated = _continue(model, prompts, vectors, seed=0)  # the same noise: only the actions differ
    return generated, ["no action", *map(space.format, held)]


def action_strip(rollouts: np.ndarray, names: list[str]) -> np.ndarray:
    """`action_rollouts` side by side with their names: uint8 (T, height, width, 3).

    It shows at a glance whether a model obeys its actions.
    """
    return side_by_side([titled(upscale(frames, 2), name) for frames, name in zip(rollouts, names, strict=True)])


def _continue(model: WorldModel, frames: np.ndarray, vectors: np.ndarray, seed: int | None = None) -> np.ndarray:
    """Continue the first ROLLOUT_PROMPT frames under action vectors (S, T, A): uint8 (S, T, H, W, C). Ranks share it.

    Args:
        seed: of the noise of each sample; None: its number.
    """
    samples = np.array_split(np.arange(len(frames)), world_size())[rank()]  # this rank's
    generated = frames[:0, :ROLLOUT_PROMPT]
    if len(samples):
        prompt, actions = to_float(frames[samples, :ROLLOUT_PROMPT]), torch.from_numpy(vectors[samples])
        seeds = [number if seed is None else seed for number in samples.tolist()]
        new = [to_uint8(frame) for frame in rollout(Sampler(model), prompt, actions, seeds=seeds)]
        generated = np.concatenate((frames[samples, :ROLLOUT_PROMPT], np.stack(new, axis=1)), axis=1)
    return np.concatenate([part for part in all_gather_object(generated) if len(part)])
