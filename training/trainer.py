"""The parts of a training run, and the single actions that the loop calls."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dreamrun.data.dataset import Batch
from dreamrun.games.game import combine_games
from dreamrun.model.checkpoint import load_config
from dreamrun.model.game_views import select_game
from dreamrun.model.inference import choose_device, prepare_for_inference
from dreamrun.training.action_strip import action_rollouts, action_strip
from dreamrun.training.batch_loader import BatchLoader
from dreamrun.training.checkpoint import find_start
from dreamrun.training.config import TrainConfig, num_training_steps, with_recipe
from dreamrun.training.distributed import (
    all_reduce_max,
    broadcast_from_rank_zero,
    fail_on_all_ranks,
    num_restarts,
    print0,
    raise_on_all_ranks,
    rank,
    rank_zero_first,
    world_size,
)
from dreamrun.training.log import PlainProgress, Throughput, print_summary
from dreamrun.training.optimizer import learning_rate
from dreamrun.training.outputs import RunOutputs
from dreamrun.training.setup import (
    check_has_outcomes,
    fit_config_to_mixture,
    fixed_validation_batches,
    open_splits,
    select_model_config,
    uses_words,
)
from dreamrun.training.state import create_train_state, parallelize
from dreamrun.training.validation import validate, validate_epoch, validation_rollout


class Trainer:
    """Data, state and outputs of a run. `state` holds everything that changes from step to step.

    Every rank makes one, and calls the same methods at the same time.

    Raises:
        ValueError: settings, data or weights that cannot be used; SystemExit if there are several ranks.
    """

    def __init__(self, config: TrainConfig):
        self._chose_fill_share = config.fill_share is not None
        self.config = config = raise_on_all_ranks(lambda: with_recipe(config))
        self.device = raise_on_all_ranks(lambda: choose_device(config.device))
        preset = raise_on_all_ranks(lambda: select_model_config(config))
        # Rank 0 goes first: it writes the index of the data set that the other ranks read.
        clip_frames = config.clip_frames or preset.window_frames
        self.data, self.val_data = rank_zero_first(lambda: open_splits(config, clip_frames))
        self.loader = BatchLoader(self.data, config.batch_size, self.device)
        self.max_steps = num_training_steps(config, self.loader.batches_per_epoch)

        words = uses_words(config, self.data)
        game, self.names = combine_games([data.metadata for data in self.data.sets], words)
        # In logs and files: two data sets of one game are told apart by their number.
        self.labels = [n if self.names.count(n) == 1 else f"{n}-{i}" for i, n in enumerate(self.names, 1)]
        model_config = raise_on_all_ranks(lambda: fit_config_to_mixture(preset, self.data, words))
        order = self.data.order_fingerprint(config.batch_size)
        self.state = raise_on_all_ranks(lambda: create_train_state(config, model_config, game, order, self.device))
        self.state.network = parallelize(config, self.state.model)
        self.resumed_from: Path | None = None
        self._plain_progress = PlainProgress()

    def resume(self) -> None:
        """Restore the state from the checkpoint that `config.resume`, or a restart by torchrun, asks for."""
        config = self.config
        is_restart = all_reduce_max(num_restarts()) > 0  # each machine counts its own restarts
        self.resumed_from = checkpoint = broadcast_from_rank_zero(
            lambda: find_start(config.resume, config.out, is_restart)
        )
        if checkpoint is not None:
            raise_on_all_ranks(lambda: self.state.load_checkpoint(checkpoint))
            print0(f"resumed from {checkpoint}, step {self.state.step}")
            if not self._chose_fill_share and not load_config(checkpoint)[0].can_fill:
                self._train_on_play_alone()

    def _train_on_play_alone(self) -> None:
        """Continue a run that began before its recipe had a share of filling in."""
        self.config = replace(self.config, fill_share=0.0)
        for model in (self.state.model, self.state.ema):
            model.config = replace(model.config, can_fill=False)

    def open_outputs(self, command: str | None) -> None:
        """Open logs and checkpoints in the run folder, and load the validation batches."""
        config = self.config
        self.outputs = raise_on_all_ranks(lambda: RunOutputs(config, self.state, self.resumed_from, command))
        print_summary(config, self.state.model, self.data, self.max_steps)
        self.val_batches = fixed_validation_batches(self.val_data, config.batch_size, config.val_batches)
        if config.outcomes != "off":
            raise_on_all_ranks(lambda: check_has_outcomes(self.val_batches, config.folders[0]))

    def close(self) -> None:
        """Stop loading, and finish what is being written."""
        self.loader.close()
        self.outputs.close()

    def next_batch(self) -> tuple[Batch | None, str]:
        """The batch at the state's epoch and batch number, or None and an error message.

        It raises nothing: the other ranks must hear of the error before they wait for this rank's gradients.
        """
        state = self.state
        if state.batch == self.loader.batches_per_epoch:
            state.epoch, state.batch = state.epoch + 1, 0
        try:
            return self.loader.load(state.epoch, state.batch), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"

    def log_training(self, grad_norm: Tensor, throughput: Throughput, progress: tqdm) -> None:
        """Log the loss and the speed since the last call. This waits for the device; training steps do not."""
        config, state = self.config, self.state
        summary = state.stats.read()
        self._fail_after_bad_steps(summary.max_bad_streak)
        metrics = {
            "train/loss": summary.mean_loss,
            "train/grad_norm": grad_norm.item(),
            "train/lr": learning_rate(config, state.step, self.max_steps),
            "train/bad_steps": summary.num_bad_steps,
            **throughput.read(state.step, self.loader.wait_secs, config.batch_size),
        }
        self.outputs.log(state.step, metrics)
        postfix = {"loss": f"{summary.mean_loss:.4f}", "clips/s": f"{metrics['train/clips_per_sec']:.1f}"}
        progress.set_postfix(postfix, refresh=False)
        if progress.disable:
            self._plain_progress.print(state.step, self.max_steps, summary.mean_loss, metrics["train/clips_per_sec"])

    def validate(self) -> float:
        """Log and return the validation loss of the averaged weights: of the outcome head if it alone is trained."""
        metrics = validate(self.state.ema, self.val_batches, self.config.bf16, self.labels)
        self.outputs.log(self.state.step, metrics)
        loss, action_ratio = metrics["val/loss"], metrics["val/action_ratio"]
        num_clips = sum(len(batch.frames) for batch in self.val_batches) * world_size()
        _write0(
            f"step {self.state.step}: val loss {loss:.4f} on {num_clips} fixed clips, "
            f"{action_ratio:.2f} times as high under wrong actions"
        )
        if "val/outcome_loss" in metrics:
            _write0(
                f"step {self.state.step}: val outcome loss {metrics['val/outcome_loss']:.4f}, mean reward error "
                f"{metrics['val/reward_error']:.4f}, rewards with precision {metrics['val/reward_precision']:.2f} and "
                f"recall {metrics['val/reward_recall']:.2f}"
            )
        return metrics["val/outcome_loss"] if self.config.outcomes == "head" else loss

    def validate_epoch(self) -> None:
        """Log loss, PSNR and SSIM over the val split."""
        config, state = self.config, self.state
        batch_size = config.batch_size // (world_size() * config.accumulate)
        metrics = self._log_by_game(
            [
                validate_epoch(select_game(state.ema, name), data, batch_size, config.epoch_clips, config.bf16)
                for name, data in zip(self.names, self.val_data.sets, strict=True)
            ]
        )
        loss, psnr, ssim = metrics.values()
        num_epochs = state.epoch + state.batch / self.loader.batches_per_epoch
        num_clips = self.val_data.num_clips
        num_seen = sum(min(config.epoch_clips or data.num_clips, data.num_clips) for data in self.val_data.sets)
        clips = f"{num_seen} of the {num_clips} clips of val"
        if num_seen == num_clips:
            clips = f"all {num_clips} clips of val"
        _write0(f"epoch {num_epochs:.4g}: val loss {loss:.4f} on {clips}, PSNR {psnr:.2f} dB, SSIM {ssim:.3f}")

    def rollout(self) -> None:
        """Continue held-out play with the averaged weights; log PSNR and write videos."""
        state, results = self.state, []
        for name, label, data in zip(self.names, self.labels, self.val_data.sets, strict=True):
            try:
                model = prepare_for_inference(select_game(state.ema, name), self.device, self.config.bf16)
                result = validation_rollout(model, data)
                by_action = action_rollouts(model, data)
            except RuntimeError as error:
                if world_size() > 1:  # the other ranks wait for this rank's frames
                    raise
                print(f"warning: the rollout at step {state.step} failed: {error}", file=sys.stderr)
                return
            results.append({} if result is None else result.metrics)
            shown_name = label if len(self.names) > 1 else ""
            if result is not None:
                self.outputs.write_rollout(state.step, result, data.metadata.fps, shown_name)
            if by_action is not None:
                self.outputs.write_action_strip(state.step, action_strip(*by_action), data.metadata.fps, shown_name)
        if any(results):
            self._log_by_game(results)

    def _log_by_game(self, by_game: list[dict[str, float]]) -> dict[str, float]:
        """Log and return the mean of each metric over games; of several games, log those of each too."""
        found = list(dict.fromkeys(name for metrics in by_game for name in metrics))
        mean = {name: float(np.mean([metrics[name] for metrics in by_game if name in metrics])) for name in found}
        of_each = {
            f"{name}_{game}": metrics[name]
            for game, metrics in zip(self.labels, by_game, strict=True)
            for name in metrics
            if len(by_game) > 1
        }
        self.outputs.log(self.state.step, mean | of_each)
        return mean

    def save_checkpoint(self, val_loss: float | None = None) -> None:
        """Save the state. Fail if too many steps were bad or a weight is not finite."""
        state = self.state
        self._fail_after_bad_steps(state.stats.max_bad_streak())
        if not torch.stack(torch._foreach_norm(list(state.model.parameters()))).isfinite().all():
            self._fail(f"the weights are no longer finite at step {state.step}")
        self.outputs.save_checkpoint(state, val_loss)

    def fail_without_data(self, data_error: str) -> None:
        """Fail on all ranks if any rank's data loader has failed."""
        saved, step = self.outputs.wait_for_checkpoint(), self.state.step
        fail_on_all_ranks(
            data_error and f"no more data at step {step} ({data_error}); saved in {saved}: --resume auto continues"
        )

    def _fail_after_bad_steps(self, num_bad_steps: int) -> None:
        limit = self.config.max_bad_steps
        if num_bad_steps >= limit:
            self._fail(
                f"{num_bad_steps} steps in a row up to step {self.state.step} had a loss or gradient "
                f"that is not finite (--max-bad-steps {limit})"
            )

    def _fail(self, reason: str) -> None:
        saved = self.outputs.wait_for_checkpoint() or "the start"
        fail_on_all_ranks(f"{reason}: continue from {saved} with a lower --learning-rate, or check the data")


def _write0(message: str) -> None:
    if rank() == 0:
        tqdm.write(message)
        sys.stdout.flush()
