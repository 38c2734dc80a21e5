"""The training loop."""

from __future__ import annotations

import copy
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.dataset import Batch, ClipDataset, prefetch
from data.pixels import to_float
from data.video import comparison, write_mp4
from model.config import PRESETS, ModelConfig
from model.dit import WorldModel
from model.sampler import Sampler
from training.checkpoint import find_resume, load_state, save_checkpoint
from training.config import TrainConfig
from training.distributed import autocast, choose_device, describe_device, for_dreaming, rank, world_size
from training.evaluate import by_frame, dream, held_out_clips, validation_loss
from training.loss import diffusion_loss, draw_noise, drop_actions
from training.metrics import MetricsLog

ROLLOUT_SAMPLES, ROLLOUT_PROMPT, ROLLOUT_FRAMES = 4, 4, 32
VAL_SEED = 1_000_000  # order and noise of the validation clips: the same at every step and in every run


def train(config: TrainConfig) -> Path:
    """Train a world model; returns its last checkpoint.

    Raises:
        ValueError: settings, data or a checkpoint that cannot be used.
        KeyboardInterrupt: after a checkpoint has been saved.
    """
    return Trainer(config).run()


class Trainer:
    """One run: everything that changes is `step`, `epoch`, `batch`, the weights and the optimizer."""

    def __init__(self, config: TrainConfig):
        if world_size() > 1:
            raise ValueError(f"{world_size()} processes were started, but training runs in one so far: drop torchrun")
        self.config = config
        self.device = choose_device(config.device)
        model_config = self._model_config()
        clip_frames = config.clip_frames or model_config.window_frames
        if clip_frames > model_config.window_frames:
            raise ValueError(f"clips of {clip_frames} frames do not fit a window of {model_config.window_frames}")
        self.data = self._dataset("train", clip_frames)
        self.val_data = self._dataset("val", clip_frames)
        self.model_config = self._about_the_game(model_config)
        torch.manual_seed(config.seed)
        self.model = WorldModel(self.model_config).to(self.device)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        if config.compile:
            for block in self.model.blocks:
                block.compile()
        self.num_batches = self.data.num_batches(config.batch_size)
        if not self.num_batches:
            raise ValueError(f"batch_size {config.batch_size} is more than the {self.data.num_clips} clips there are")
        self.max_steps = config.max_steps or (config.epochs or 1) * self.num_batches
        if config.epochs:
            self.max_steps = min(self.max_steps, config.epochs * self.num_batches)
        self.step, self.epoch, self.batch = 0, 0, 0
        self.stop_asked = False
        self._resume()

    def run(self) -> Path:
        """Train to the end."""
        config = self.config
        if self.step >= self.max_steps:
            print(f"nothing left to do: {self.step} steps are done, of {self.max_steps}")
            return find_resume(config.resume, config.out)
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "train_config.json").write_text(json.dumps(asdict(config), indent=2, default=str) + "\n")
        settings = {**asdict(config), "model": self.model_config.to_dict()}
        self.log = MetricsLog(config.out, self.step, config.wandb, config.wandb_project, config.wandb_entity, settings)
        self._say_what_runs()
        self.val_batches = self._fixed_val_batches()
        previous = signal.signal(signal.SIGINT, self._ask_to_stop)
        saved = None
        try:
            with tqdm(total=self.max_steps, initial=self.step, unit=" steps", desc="training") as bar:
                for batch in self._batches():
                    self._train_step(batch, bar)
                    last = self.step == self.max_steps or self.stop_asked
                    begun = time.perf_counter()
                    if last or self.step % config.checkpoint_every == 0:
                        saved = self._save()
                    if last or self.step % config.val_every == 0:
                        self._validate()
                    if self.step == self.max_steps or self.step % config.rollout_every == 0:
                        self._rollout()
                    if last:
                        break
                    self._since += time.perf_counter() - begun  # clips/s counts training alone
        finally:
            signal.signal(signal.SIGINT, previous)
            self.log.close()
        if self.stop_asked:
            print(f"stopped at step {self.step}, saved in {saved}: the same command with --resume auto goes on")
            raise KeyboardInterrupt
        return saved

    def _train_step(self, batch: Batch, bar: tqdm) -> None:
        try:
            loss, grad_norm = self._update(batch)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise ValueError(self._memory_advice()) from None
        self.step += 1
        self.batch += 1
        self._losses.append(loss)
        if self.step % self.config.log_every == 0 or self.step == self.max_steps:
            mean_loss = torch.stack(self._losses).mean().item()  # the only wait for the device
            now = time.perf_counter()
            clips_per_sec = len(self._losses) * self.config.batch_size / (now - self._since)
            self._losses, self._since = [], now
            values = {"train/loss": mean_loss, "train/grad_norm": grad_norm.item(), "train/lr": self._learning_rate()}
            self.log.log(self.step, {**values, "train/clips_per_sec": clips_per_sec})
            bar.set_postfix({"loss": f"{mean_loss:.4f}", "clips/s": f"{clips_per_sec:.1f}"}, refresh=False)
        bar.update()

    def _update(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step; loss and gradient norm stay on the device."""
        frames, actions = self._to_device(batch)
        noise = draw_noise(frames.shape, batch.seeds, self.device)
        actions = drop_actions(actions, self.config.action_dropout, noise.coins)
        with self._autocast():
            loss = diffusion_loss(self.model, self.model_config, frames, actions, noise)[0].mean()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        # The average forgets the first steps quickly: (1 + n) / (10 + n), as in TensorFlow's.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        weights = zip(self.ema.parameters(), self.model.parameters(), strict=True)
        torch._foreach_lerp_(*map(list, zip(*((a, b.detach()) for a, b in weights), strict=True)), 1 - decay)
        return loss.detach(), grad_norm

    def _learning_rate(self) -> float:
        """Warm-up from 0, constant, then linear decay to 0 at the end (arXiv 2405.18392)."""
        config = self.config
        warmup = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        decay_steps = max(1.0, config.decay_fraction * self.max_steps)
        return config.learning_rate * min(warmup, (self.max_steps - self.step) / decay_steps, 1.0)

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run stands, epoch after epoch."""
        self._losses, self._since = [], time.perf_counter()
        while self.step < self.max_steps:
            yield from prefetch(self.data.batches(self.config.batch_size, self.epoch, skip_batches=self.batch))
            self.epoch, self.batch = self.epoch + 1, 0

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Bytes travel, floats are made on the device."""
        frames, actions = (torch.from_numpy(array).to(self.device) for array in (batch.frames, batch.actions))
        return to_float(frames), actions

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.bf16)

    def _validate(self) -> None:
        with self._autocast():
            loss = validation_loss(self.ema, self.val_batches)
        self.log.log(self.step, {"val/loss": loss})
        tqdm.write(f"step {self.step}: val loss {loss:.4f}")

    def _rollout(self) -> None:
        """Dream along with held-out play; a picture of how far the run has come."""
        lengths = self.val_data.index.lengths
        num_frames = min(ROLLOUT_FRAMES, int(lengths.max()))
        num_samples = min(ROLLOUT_SAMPLES, int((lengths >= num_frames).sum()))
        if num_frames <= ROLLOUT_PROMPT:
            return
        clips = held_out_clips(self.val_data, num_samples, num_frames)
        sampler = Sampler(for_dreaming(self.ema, self.device, self.config.bf16))
        dreamt = dream(sampler, clips.frames, clips.actions, clips.space, ROLLOUT_PROMPT)
        curve = by_frame(clips.frames[:, ROLLOUT_PROMPT:], dreamt[:, ROLLOUT_PROMPT:])["psnr"]
        measured = {f"rollout/psnr_{n}": curve[n - 1] for n in (1, 4, 8, 16) if n <= len(curve) and curve[n - 1]}
        self.log.log(self.step, measured)
        video = comparison(clips.frames, dreamt, clips.actions, clips.space)
        path = self.config.out / "rollouts" / f"step_{self.step:07d}.mp4"
        write_mp4(path, video, clips.fps)
        self.log.video(self.step, "rollout/video", path)

    def _save(self) -> Path:
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return save_checkpoint(self.config.out, self.step, self.ema, state, self.config.keep_checkpoints)

    def _resume(self) -> None:
        checkpoint = find_resume(self.config.resume, self.config.out)
        if checkpoint is None:
            return
        ema = WorldModel.from_pretrained(str(checkpoint))
        if ema.config != self.model_config:
            raise ValueError(f"cannot resume from {checkpoint}: its network or its game is another ({ema.config})")
        state = load_state(checkpoint)
        self.ema.load_state_dict(ema.state_dict())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        print(f"resumed from {checkpoint}, step {self.step}")

    def _model_config(self) -> ModelConfig:
        config = self.config
        if config.preset not in PRESETS:
            raise ValueError(f"unknown preset {config.preset!r}: choose {', '.join(PRESETS)}")
        given = {"prediction": config.prediction, "window_frames": config.window_frames}
        return replace(PRESETS[config.preset], **{name: value for name, value in given.items() if value is not None})

    def _about_the_game(self, config: ModelConfig) -> ModelConfig:
        """The architecture, made to measure for the data."""
        metadata = self.data.metadata
        height, width, channels = metadata.frame_shape
        return replace(
            config,
            frame_height=height,
            frame_width=width,
            num_channels=channels,
            num_actions=len(metadata.actions),
            environment=metadata.environment,
            environment_options=metadata.environment_options,
            action_names=metadata.actions.names,
            action_keys=metadata.actions.keys,
            acting_actions=metadata.actions.acting,
            fps=metadata.fps,
        )

    def _dataset(self, split: str, clip_frames: int) -> ClipDataset:
        config = self.config
        return ClipDataset(
            config.data,
            split,
            clip_frames,
            stride=config.clip_stride,
            seed=config.seed if split == "train" else VAL_SEED,
            rank=rank(),
            world_size=world_size(),
            max_bad_fraction=config.max_bad_fraction,
            progress=lambda done, todo: _progress(f"indexing {split}", done, todo),
        )

    def _fixed_val_batches(self) -> list[Batch]:
        """The same few held-out batches at every validation."""
        size = min(self.config.batch_size, self.val_data.num_clips)
        count = min(self.config.val_batches, self.val_data.num_batches(size))
        return [batch for batch, _ in zip(self.val_data.batches(size), range(count), strict=False)]

    def _say_what_runs(self) -> None:
        config, model = self.config, self.model_config
        num_parameters = sum(p.numel() for p in self.model.parameters())
        print(f"device: {describe_device(self.device)}; {'bfloat16' if self._autocast()._enabled else 'float32'}")
        print(f"model: {config.preset}, {num_parameters / 1e6:.2f} M parameters, {model.prediction} prediction")
        print(
            f"data: {config.data}: {len(self.data.index.lengths)} records, {self.data.num_clips} clips of "
            f"{self.data.clip_frames} frames, {self.num_batches} batches of {config.batch_size} an epoch"
        )
        print(f"run: {config.out}, {self.max_steps} steps")

    def _ask_to_stop(self, *_) -> None:
        if self.stop_asked:
            raise KeyboardInterrupt  # asked twice: at once, without saving
        self.stop_asked = True
        tqdm.write("stopping after this step; a checkpoint is being saved (once more to quit at once)")

    def _memory_advice(self) -> str:
        """Out of memory: which batch size would fit, found by trying."""
        self.optimizer.zero_grad()
        for size in _halves(self.config.batch_size):
            if self._fits(size):
                return f"out of memory with --batch-size {self.config.batch_size}: {size} would fit"
        return "out of memory even with --batch-size 1: choose a smaller --preset or fewer --clip-frames"

    def _fits(self, batch_size: int) -> bool:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            batch = next(self.data.batches(batch_size))
            self._update(batch)
            return True
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            return False


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _progress(what: str, done: int, todo: int) -> None:
    end = "\n" if done == todo else ""
    print(f"\r{what}: {done} of {todo} shards", end=end, file=sys.stderr, flush=True)
