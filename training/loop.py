"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.atomic import atomic_file
from data.dataset import Batch
from data.pixels import to_float
from data.prefetch import prefetch
from data.video import write_mp4, write_png
from model.dit import WorldModel
from training.checkpoint import CheckpointWriter, find_checkpoint_to_resume, list_checkpoints, load_state
from training.config import TrainConfig, with_recipe
from training.device import autocast, choose_device, describe_device, prepare_for_inference
from training.distributed import (
    all_gather_object,
    all_reduce_max,
    all_reduce_mean,
    broadcast_from_rank_zero,
    num_restarts,
    print0,
    process_group,
    raise_on_all_ranks,
    rank,
    rank_zero_first,
    world_size,
)
from training.logging import MetricsLog
from training.loss import apply_scheduled_sampling, diffusion_loss, draw_noise, drop_actions
from training.memory import memory_advice, out_of_memory
from training.model_card import TRAIN_CONFIG_FILE
from training.optimizer import make_optimizer
from training.plots import MetricsPlot
from training.setup import (
    check_batch_size,
    fit_config_to_data,
    fixed_validation_batches,
    game_info,
    learning_rate,
    load_initial_weights,
    open_split,
    select_model_config,
)
from training.step_stats import StepStats
from training.stop_request import StopRequest
from training.validation import epoch_metrics, epoch_sums, validation_metrics, validation_rollout, validation_sums

GO, STOP, FAILED = range(3)  # what a rank has to say before a step; the highest counts for all


def train(config: TrainConfig) -> Path | None:
    """Train a world model, together with the other ranks if torchrun started several; returns its last checkpoint.

    Raises:
        ValueError: settings, data or a checkpoint that cannot be used; a loader that died, after a checkpoint was
            saved; too many steps in a row that were not finite.
        KeyboardInterrupt: stopped, after a checkpoint has been saved.
    """
    with process_group():
        trainer = rank_zero_first(lambda: Trainer(config))
        trainer.resume()
        return trainer.run()


class Trainer:
    """One run: everything that changes is `step`, `epoch`, `batch`, the weights, the optimizer and the counts."""

    def __init__(self, config: TrainConfig):
        self.config = config = with_recipe(config)
        self.device = choose_device(config.device)
        wanted = select_model_config(config)
        self.data, self.val_data = (
            open_split(config, split, config.clip_frames or wanted.window_frames) for split in ("train", "val")
        )
        check_batch_size(config, self.data.num_clips)
        if self.val_data.num_clips < world_size():
            raise ValueError(f"{config.data}/val has fewer clips than there are ranks: {self.val_data.num_clips}")
        self.model_config = fit_config_to_data(wanted, self.data.metadata)
        self.game = game_info(self.data.metadata)
        torch.manual_seed(config.seed)
        self.model = WorldModel(self.model_config, self.game)
        weights = load_initial_weights(config, self.model_config)
        if weights:
            self.model.load_state_dict(weights)
        self.model.to(self.device)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, config.optimizer, config.learning_rate, config.weight_decay)
        self.counts = StepStats(self.device)
        self.num_batches = self.data.num_batches(config.batch_size)
        self.max_steps = config.max_steps or (config.epochs or 1) * self.num_batches
        if config.epochs:
            self.max_steps = min(self.max_steps, config.epochs * self.num_batches)
        self.step, self.epoch, self.batch = 0, 0, 0
        self.checkpoint: Path | None = None  # that the run goes on from
        self.wandb_id: str | None = None
        self.writer: CheckpointWriter | None = None  # on rank 0

    def resume(self) -> None:
        """Go on from the checkpoint that the config, or a restart by torchrun, asks for."""
        self.checkpoint = broadcast_from_rank_zero(self._find_checkpoint)
        if self.checkpoint:
            raise_on_all_ranks(lambda: self._load(self.checkpoint))
            print0(f"resumed from {self.checkpoint}, step {self.step}")
        self.model.activation_checkpointing = self.config.activation_checkpointing
        if self.config.compile:
            for block in self.model.blocks:
                block.compile()
        self.network = self.model
        if world_size() > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(
                self.model, devices, forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def run(self) -> Path | None:
        """Train to the end."""
        if self.step >= self.max_steps:
            print0(f"nothing left to do: {self.step} steps are done, of {self.max_steps}")
            return self.checkpoint
        self.log = raise_on_all_ranks(self._open_log if rank() == 0 else lambda: None)
        self._say_what_runs()
        self.plot = MetricsPlot(self.config.out) if self.log else None
        self.val_batches = fixed_validation_batches(self.val_data, self.config.batch_size, self.config.val_batches)
        config = self.config
        if rank() == 0:
            self.writer = CheckpointWriter(config.out, self.ema, config.keep_checkpoints, self.checkpoint)
        try:
            with StopRequest() as stop:
                stopped = self._train(stop)
            saved = self._saved()
            if self.plot:
                self.plot.draw(last=True)
        finally:
            if self.writer:
                self.writer.close()
            if self.log:
                self.log.close()
        if stopped:
            print0(f"stopped at step {self.step}, saved in {saved}: the same command with --resume auto goes on")
            raise KeyboardInterrupt
        return saved

    def _train(self, stop: StopRequest) -> bool:
        """Train to the end, or until some rank is asked to stop (True) or has no more data (ValueError)."""
        with closing(self._batches()) as batches, self._progress_bar() as bar:
            if self.step == 0 and self.config.init_from:
                self._validate()  # what the run has to improve on
            while self.step < self.max_steps:
                batch, trouble = self._next(batches)
                status = all_reduce_max(FAILED if trouble else STOP if stop.asked else GO)
                if status != GO:
                    self._save()
                    raise_on_all_ranks(lambda trouble=trouble: self._give_up(trouble))
                    return True
                grad_norm = self._train_step(batch)
                if self._due(self.config.log_every):
                    self._log_training(grad_norm, bar)
                bar.update()
                begun = time.perf_counter()
                # The checkpoint comes last, so that whoever goes on from it has nothing of this step left to do.
                val_loss = self._validate() if self._due(self.config.val_every) else None
                if self._due(self.config.rollout_every):
                    self._rollout()
                if self.batch == self.num_batches or self.step == self.max_steps:
                    self._measure_epoch()
                if self._due(self.config.checkpoint_every):
                    self._save(val_loss)
                if self.plot and (self._due(self.config.val_every) or self._due(self.config.checkpoint_every)):
                    self.plot.draw()
                self._since += time.perf_counter() - begun  # clips/s counts training alone
        return False

    def _due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self.max_steps

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch | None, str]:
        """The next batch, or what keeps it from coming."""
        begun = time.perf_counter()
        try:
            return next(batches), ""
        except Exception as error:  # whatever it is, the other ranks must hear of it before they wait for this one
            return None, f"{type(error).__name__}: {error}"
        finally:
            self._waited += time.perf_counter() - begun

    def _give_up(self, trouble: str) -> None:
        saved = self._saved()
        if trouble:
            raise ValueError(f"no more data at step {self.step} ({trouble}); saved in {saved}: --resume auto goes on")

    def _saved(self) -> Path | None:
        """The newest whole checkpoint, once nothing is being written; known to all ranks."""
        return all_gather_object(self.writer.wait() if self.writer else None)[0]

    def steps(self, num_steps: int) -> Iterator[float]:
        """Train so many steps and nothing else, to be measured; after each, the seconds its batch was waited for."""
        with closing(self._batches()) as batches:
            for _ in range(num_steps):
                self._waited = 0.0
                batch, trouble = self._next(batches)
                self._give_up(trouble)
                self._train_step(batch)
                yield self._waited

    def _train_step(self, batch: Batch) -> Tensor:
        """The gradient's norm, on the device."""
        try:
            grad_norm = self._update(batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            self.optimizer.zero_grad()
            advice = memory_advice(self.config, lambda size: self._update(next(self.data.batches(size))))
            raise ValueError(advice) from None
        self.step += 1
        self.batch += 1
        return grad_norm

    def _log_training(self, grad_norm: Tensor, bar: tqdm) -> None:
        reading = self.counts.read()  # the only wait for the device
        self._check_streak(reading.max_bad_streak)
        now = time.perf_counter()
        secs, waited = now - self._since, self._waited
        clips_per_sec = (self.step - self._logged) * self.config.batch_size / secs
        self._since, self._waited, self._logged = now, 0.0, self.step
        self._write(
            {
                "train/loss": reading.mean_loss,
                "train/grad_norm": grad_norm.item(),
                "train/lr": learning_rate(self.config, self.step, self.max_steps),
                "train/bad_steps": reading.bad_steps,
                "train/clips_per_sec": clips_per_sec,
                "train/data_wait": waited / secs,  # share of the time
            }
        )
        bar.set_postfix({"loss": f"{reading.mean_loss:.4f}", "clips/s": f"{clips_per_sec:.1f}"}, refresh=False)

    def _check_streak(self, bad_steps: int) -> None:
        limit = self.config.max_bad_steps
        if bad_steps >= limit:
            self._end(
                f"{bad_steps} steps in a row up to step {self.step} had a loss or gradient that is not finite "
                f"(--max-bad-steps {limit})"
            )

    def _end(self, trouble: str) -> None:
        saved = self._saved() or "the start"
        raise_on_all_ranks(
            lambda: _mistake(f"{trouble}: go on from {saved} with a lower --learning-rate, or check the data")
        )

    def _update(self, batch: Batch) -> Tensor:
        """One optimizer step; the gradient's norm, on the device."""
        parts = self._to_device(batch)
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            together = number == len(parts) or self.network is self.model  # gradients are averaged over ranks once
            with nullcontext() if together else self.network.no_sync():
                loss = self._loss(*part) / len(parts)
                loss.backward()
            total += loss.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.max_steps)
        # By this flag the optimizer leaves weights and moments as they were, without waiting for the device.
        self.optimizer.found_inf = self.counts.add(all_reduce_mean(total), grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # The average forgets the first steps quickly: (1 + n) / (10 + n), as in TensorFlow's.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        weights = zip(self.ema.parameters(), self.model.parameters(), strict=True)
        torch._foreach_lerp_(*map(list, zip(*((a, b.detach()) for a, b in weights), strict=True)), 1 - decay)
        return grad_norm

    def _loss(self, frames: Tensor, actions: Tensor, seeds: np.ndarray) -> Tensor:
        """Of uint8 frames (B, T, H, W, C) on the device: bytes travel, floats are made there."""
        x0 = to_float(frames)
        kind = self.config.noise_levels
        noise = draw_noise(x0.shape, seeds, self.device, kind)
        actions = drop_actions(actions, self.config.action_dropout, noise.coins)
        with self._autocast():
            seen = apply_scheduled_sampling(
                self.model, self.model_config, x0, actions, noise, kind, self.config.scheduled_sampling
            )
        with self._autocast():  # a block of its own: weights that the other one cast without gradients are forgotten
            losses, _ = diffusion_loss(self.network, self.model_config, x0, actions, noise, seen)
        return losses.mean()

    def _to_device(self, batch: Batch) -> list[tuple[Tensor, Tensor, np.ndarray]]:
        """Frames, actions and seeds of each part that is accumulated."""
        tensors = (torch.as_tensor(array).to(self.device, non_blocking=True) for array in (batch.frames, batch.actions))
        frames, actions = (tensor.chunk(self.config.accumulate) for tensor in tensors)
        seeds = np.split(batch.seeds, np.cumsum([len(part) for part in frames])[:-1])
        return list(zip(frames, actions, seeds, strict=True))

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run stands, epoch after epoch."""
        self._since, self._waited, self._logged = time.perf_counter(), 0.0, self.step
        while True:
            batches = self.data.batches(self.config.batch_size, self.epoch, skip_batches=self.batch)
            yield from prefetch(map(_pinned, batches) if self.device.type == "cuda" else batches)
            self.epoch, self.batch = self.epoch + 1, 0

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.bf16)

    def _validate(self) -> float:
        with self._autocast():
            metrics = validation_metrics(all_reduce_mean(validation_sums(self.ema, self.val_batches)))
        self._write(metrics)
        if rank() == 0:
            loss, ratio = metrics["val/loss"], metrics["val/action_ratio"]
            tqdm.write(f"step {self.step}: val loss {loss:.4f}, under wrong actions {ratio:.2f} times that")
        return metrics["val/loss"]

    def _measure_epoch(self) -> None:
        """Loss, PSNR and SSIM over all of val, each rank's share by itself: they meet only in the end."""
        config = self.config
        size = config.batch_size // (world_size() * config.accumulate)
        batches = prefetch(self.val_data.sequential_batches(size, config.epoch_clips))

        def sums() -> Tensor:
            with closing(batches), self._autocast():
                return epoch_sums(self.ema, tqdm(batches, "measuring val", leave=False, disable=rank() > 0 or None))

        metrics = epoch_metrics(all_reduce_mean(raise_on_all_ranks(sums)))
        self._write(metrics)
        if rank() == 0:
            loss, psnr, ssim = metrics.values()
            done = self.epoch + self.batch / self.num_batches
            tqdm.write(f"epoch {done:.4g}: val loss {loss:.4f}, PSNR {psnr:.2f} dB, SSIM {ssim:.3f}")

    def _rollout(self) -> None:
        """Dream along with held-out play; a picture of how far the run has come."""
        try:
            dreamt = validation_rollout(prepare_for_inference(self.ema, self.device, self.config.bf16), self.val_data)
        except RuntimeError as error:  # pictures must not cost the run; other ranks, though, would wait for this one's
            if world_size() > 1:
                raise
            print0(f"warning: no dream at step {self.step}: {error}", sys.stderr)
            return
        if not dreamt or not self.log:
            return
        self._write(dreamt.metrics)
        path = self.config.out / "rollouts" / f"step_{self.step:07d}.mp4"
        try:
            write_mp4(path, dreamt.video, self.val_data.metadata.fps)
            self.log.show(self.step, "rollout/video", path)
            path = path.with_suffix(".png")
            write_png(path, dreamt.picture)
            self.log.show(self.step, "rollout/grid", path)
        except OSError as error:  # a full disk must not cost the run
            print0(f"warning: {path} could not be written: {error}", sys.stderr)

    def _write(self, values: dict[str, float]) -> None:
        if self.log:  # what is not finite is left out: JSON has no word for it
            self.log.log(self.step, {name: value for name, value in values.items() if math.isfinite(value)})

    def _save(self, val_loss: float | None = None) -> None:
        self._check_streak(self.counts.max_bad_streak())
        if not torch.stack(torch._foreach_norm(list(self.model.parameters()))).isfinite().all():
            self._end(f"the weights are no longer finite at step {self.step}")
        if not self.writer:
            return
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "order": self.data.order_fingerprint(self.config.batch_size),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": self.counts.state_dict(),
            "wandb_id": self.log.run_id,
        }
        self.writer.save(self.step, self.ema, state, val_loss)

    def _find_checkpoint(self) -> Path | None:
        config = self.config
        found = find_checkpoint_to_resume("auto" if num_restarts() else config.resume, config.out)
        if found is None and config.resume != "auto":
            found = find_checkpoint_to_resume(config.resume, config.out)
        here = (config.out / "checkpoints").resolve()
        if (found is None or found.resolve().parent != here) and list_checkpoints(config.out):
            raise ValueError(f"{config.out} holds a run already: go on with --resume auto, or choose another --out")
        return found

    def _load(self, checkpoint: Path) -> None:
        ema = WorldModel.from_pretrained(str(checkpoint))
        if (ema.config, ema.game) != (self.model_config, self.game):
            raise ValueError(f"cannot resume from {checkpoint}: its network or its game is another ({ema.config})")
        state = load_state(checkpoint)
        self.ema.load_state_dict(ema.state_dict())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.counts.load_state_dict(state["counts"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.wandb_id = state["wandb_id"]
        order = self.data.order_fingerprint(self.config.batch_size)
        changed = [
            f"{name} {state['order'][name]} -> {order[name]}" for name in order if state["order"][name] != order[name]
        ]
        if changed:
            print0(f"warning: the batches are others now ({', '.join(changed)}): a new epoch begins", sys.stderr)
            self.epoch, self.batch = self.epoch + 1, 0

    def _open_log(self) -> MetricsLog:
        config = self.config
        with atomic_file(config.out / TRAIN_CONFIG_FILE) as path:
            path.write_text(json.dumps(asdict(config), indent=2, default=str) + "\n")
        settings = {**asdict(config), "model": self.model_config.to_dict(), "game": self.game.to_dict()}
        where = (config.wandb, config.wandb_project, config.wandb_entity)
        return MetricsLog(config.out, self.step, *where, settings, self.wandb_id)

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.max_steps, initial=self.step, unit=" steps", desc="training", disable=True if rank() else None
        )

    def _say_what_runs(self) -> None:
        config, model = self.config, self.model_config
        num_parameters = sum(p.numel() for p in self.model.parameters())
        print0(f"device: {describe_device(self.device)}; {'bfloat16' if self._autocast()._enabled else 'float32'}")
        if world_size() > 1:
            print0(f"ranks: {world_size()}, each with {config.batch_size // world_size()} clips of a batch")
        print0(f"model: {config.preset}, {num_parameters / 1e6:.2f} M parameters, {model.prediction} prediction")
        print0(
            f"data: {config.data}: {len(self.data.index.lengths)} records, {self.data.num_clips} clips of "
            f"{self.data.clip_frames} frames, {self.num_batches} batches of {config.batch_size} an epoch"
        )
        if self.data.metadata.actions.unconditional:
            print0("this data has no actions: the network learns to go on by itself, and its dream cannot be steered")
        print0(f"run: {config.out}, {self.max_steps} steps")


def _mistake(message: str) -> None:
    raise ValueError(message)


def _pinned(batch: Batch) -> Batch:
    """The same in memory that a GPU copies from while it computes, so that no step waits for the copy."""
    return replace(
        batch, **{name: torch.from_numpy(getattr(batch, name)).pin_memory() for name in ("frames", "actions")}
    )
