"""The training loop, its step, and the loss of a step, from top to bottom.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dreamrun.data.batch import Batch
from dreamrun.data.run_lock import lock_run_folder
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import autocast
from dreamrun.model.loss import Corruption, context_tokens, diffusion_loss, draw_noise
from dreamrun.model.outcome_head import outcome_losses
from dreamrun.training.compiler import CompilationStoppedError, Compiler, describe, is_compile_error
from dreamrun.training.distributed import (
    all_gather_object,
    all_reduce_max,
    all_reduce_mean,
    barrier,
    num_restarts,
    print0,
    process_group,
    rank,
    world_size,
)
from dreamrun.training.generated_context import generated_context
from dreamrun.training.log import RunLog, Throughput
from dreamrun.training.optimizer import learning_rate
from dreamrun.training.setup import Run, prepare, print_summary
from dreamrun.training.state import CheckpointWriter, TrainState, find_start
from dreamrun.training.tasks import TASKS, Task, TaskOptions
from dreamrun.training.train_config import ResolvedConfig, TrainConfig
from dreamrun.training.validation import Validator

# Of a CPU; of cuBLAS, which allocates memory of its own; of NCCL; of a kernel.
OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


class CheckpointNotSavedError(Exception):
    """A run has ended, but its last checkpoint could not be saved. Shown as one line, exit code 1."""


def train(config: TrainConfig, command: str | None = None) -> Path | None:
    """Train a world model, together with the other ranks if torchrun started several. Return its last checkpoint.

    Args:
        command: the command line that started training. The run folder keeps it, for the model card.

    Raises:
        KeyboardInterrupt: training was stopped, after a checkpoint was saved.
        CheckpointNotSavedError: training has ended, but the last checkpoint could not be saved, for example because the
            disk is full.
    """
    with process_group(), lock_run_folder(config.out) if rank() == 0 else nullcontext():
        is_restart = all_reduce_max(num_restarts()) > 0  # each machine counts its own restarts
        start = find_start(config.resume, config.out, is_restart) if rank() == 0 else None
        start = all_gather_object(start)[0]
        run = prepare(config, start)
        state, max_steps = run.state, run.max_steps
        if state.step >= max_steps:
            print0(f"nothing left to do: {state.step} of {max_steps} steps are done")
            return start
        with (
            closing(RunLog(run.config, state, command)) as log,
            closing(CheckpointWriter(config.out, state.ema, config.keep_checkpoints, start)) as writer,
            StopRequest(run.compiler) as stop,
        ):
            print_summary(run)
            data_error = train_steps(run, log, writer, stop)
            checkpoint, save_error = writer.wait()
            log.plot(last=True)
        barrier()  # torchrun kills rank 0 as soon as another rank ends
        hint = f"{checkpoint}: --resume auto continues from there"
        if save_error:
            newest = f"the newest checkpoint is {hint}" if checkpoint else "no checkpoint was saved"
            raise CheckpointNotSavedError(f"{save_error}; {newest}")
        if data_error:
            raise ValueError(f"no more data at step {state.step} ({data_error}); saved in {hint}")
        if state.step < max_steps:
            print0(f"stopped at step {state.step}, saved in {hint}")
            raise KeyboardInterrupt
        return checkpoint


def train_steps(run: Run, log: RunLog, writer: CheckpointWriter, stop: StopRequest) -> str | None:
    """Train to the last step, or until a rank is asked to stop or has no more data, and save a checkpoint.

    Returns why a rank has no more data; None if all have.
    """
    config, state, max_steps = run.config, run.state, run.max_steps
    validator = Validator(config, state.ema, run.val_data, run.games, log)
    if state.step == 0 and config.init_from:
        validator.losses(state.step)  # the loss to improve on
    throughput = Throughput(state.step)
    disable = True if rank() else None  # None: only if standard error is not a terminal
    progress = tqdm(desc="training", total=max_steps, initial=state.step, unit=" steps", disable=disable)
    with progress, closing(run.batches()) as batches:
        while state.step < max_steps:
            if state.batch == run.batches_per_epoch:
                state.epoch, state.batch = state.epoch + 1, 0
            with throughput.waiting():
                batch, data_error = _next(batches)
            if all_reduce_max(stop.requested or batch is None):  # on any rank
                save_checkpoint(run, writer)
                return next(filter(None, all_gather_object(data_error)), None)
            assert batch is not None
            try:
                with explain_errors(config):
                    grad_norm = train_step(run, batch)
            except CompilationStoppedError:
                if world_size() > 1:
                    raise  # other ranks wait for this rank's gradients: there is no saving together
                continue  # the step has changed nothing yet

            is_last = state.step == max_steps
            if state.step % config.log_every == 0 or is_last:
                speed = throughput.read(state.step, config.batch_size)
                log_training(run, log, writer, {"train/grad_norm": grad_norm.item(), **speed}, progress)
            progress.update()
            with throughput.paused():
                val_loss = None
                if state.step % config.val_every == 0 or is_last:
                    val_loss = validator.losses(state.step)
                if state.step % config.rollout_every == 0 or is_last:
                    validator.rollouts(state.step)
                if state.batch == run.batches_per_epoch or is_last:
                    validator.epoch(state.step, state.epoch + state.batch / run.batches_per_epoch)
                # Save last, so that a resumed run repeats nothing.
                if state.step % config.checkpoint_every == 0 or is_last:
                    save_checkpoint(run, writer, val_loss)
                if state.step % config.val_every == 0 or state.step % config.checkpoint_every == 0:
                    log.plot()
    return None


def train_step(run: Run, batch: Batch) -> Tensor:
    """Train on this rank's part of a batch: update weights, averaged weights, statistics and counters.

    A step whose loss or gradient is not finite is counted, but leaves weights and optimizer as they were.

    Returns:
        The gradient norm before clipping, a scalar on the device. Nothing here waits for the device.
    """
    config, state = run.config, run.state
    batches = batch.to(run.device).chunk(config.accumulate)
    total_loss = torch.zeros((), device=run.device)
    for number, (part, tasks) in enumerate(
        zip(batches, np.array_split(run.step_tasks(), len(batches)), strict=True), 1
    ):
        # DDP averages gradients over ranks once a step, in the last backward pass.
        sync = number == len(batches) or state.network is state.model
        with nullcontext() if sync else cast(DistributedDataParallel, state.network).no_sync():
            loss = training_loss(state, part, tasks, config) / len(batches)
            loss.backward()
        total_loss += loss.detach()

    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step, run.max_steps)
    # By this flag the optimizer skips a bad step without waiting for the device.
    state.optimizer.found_inf = state.stats.add(all_reduce_mean(total_loss), grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    update_ema(state.ema, state.model, config.ema_decay, state.step)

    state.step += 1
    state.batch += 1
    return grad_norm


def training_loss(state: TrainState, batch: Batch, tasks: np.ndarray, config: ResolvedConfig) -> Tensor:
    """Mean loss of clips, a scalar. A clip counts the same in every task, micro-batch and rank.

    Args:
        tasks: int (B,), the number in TASKS of each clip.
    """
    losses = []
    for number in np.unique(tasks).tolist():
        losses.append(task_losses(state, batch.select(np.flatnonzero(tasks == number)), TASKS[number], config))
    return torch.cat(losses).mean()


def task_losses(state: TrainState, clips: Batch, task: Task, config: ResolvedConfig) -> Tensor:
    """The loss of each clip (B,) in one task: that of the network, and of the outcome head if there is one."""
    x0, model_config = clips.x0, state.model.config
    with_context = task.has_context and config.teacher_forcing
    noise = draw_noise(x0.shape, clips.seeds, x0.device, with_context)
    options = TaskOptions(config.level_distribution, config.action_dropout)
    corruption = replace(task.corrupt(clips.seeds, noise, options), text=clips.text)
    if task.has_context:
        context = generated_context(state.model, state.self_forcing, clips, noise, corruption, config)
        corruption = replace(corruption, context_frames=context)
    with autocast(x0.device, config.bf16):
        if config.outcomes == "head":
            tokens = context_tokens(state.network, model_config, x0, clips.actions, corruption)
            return _outcome_losses(state.model, tokens, clips, corruption)
        with_tokens = config.outcomes == "all"
        frames = diffusion_loss(state.network, model_config, x0, clips.actions, corruption, with_tokens)
        losses = corruption.clip_losses(frames.losses)
        if frames.tokens is not None:
            losses = losses + _outcome_losses(state.model, frames.tokens, clips, corruption)
        return losses


def _outcome_losses(model: WorldModel, tokens: Tensor, clips: Batch, corruption: Corruption) -> Tensor:
    """The loss of the outcome head, weighted by clip (B,)."""
    outcomes = clips.outcomes
    assert outcomes is not None
    logits = model.outcome_logits(tokens, corruption.hide_actions(outcomes.next_actions))
    reward_loss, end_loss = outcome_losses(logits, outcomes.rewards, outcomes.ends)
    return (reward_loss + end_loss).mean(dim=1) * outcomes.weights


def update_ema(ema: WorldModel, model: WorldModel, max_decay: float, step: int) -> None:
    """Move the averaged weights towards the weights.

    The decay rises with the step to `max_decay`, so that the average forgets the first steps quickly:
    (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """
    decay = min(max_decay, (1 + step) / (10 + step))
    averages, weights = ([weight.detach() for weight in source.parameters()] for source in (ema, model))
    torch._foreach_lerp_(averages, weights, 1 - decay)


def log_training(run: Run, log: RunLog, writer: CheckpointWriter, metrics: dict[str, float], progress: tqdm) -> None:
    """Log the loss since the last call, and other metrics. This waits for the device; training steps do not."""
    state, summary = run.state, run.state.stats.read()
    _check_bad_steps(run, writer, summary.max_bad_streak)
    rate = learning_rate(run.config, state.step, run.max_steps)
    log.write(
        state.step,
        {"train/loss": summary.mean_loss, "train/lr": rate, "train/bad_steps": summary.num_bad_steps, **metrics},
    )
    loss, clips_per_sec = f"{summary.mean_loss:.4f}", f"{metrics['train/clips_per_sec']:.1f}"
    progress.set_postfix({"loss": loss, "clips/s": clips_per_sec}, refresh=False)
    if progress.disable:
        log.print_now_and_then(f"step {state.step} of {run.max_steps}: loss {loss}, {clips_per_sec} clips/s")


def save_checkpoint(run: Run, writer: CheckpointWriter, val_loss: float | None = None) -> None:
    """Save the state."""
    state = run.state
    _check_bad_steps(run, writer, state.stats.max_bad_streak())
    if not torch.stack(torch._foreach_norm(list(state.model.parameters()))).isfinite().all():
        _fail(writer, f"the weights are no longer finite at step {state.step}")
    writer.save(state, val_loss)


def _check_bad_steps(run: Run, writer: CheckpointWriter, num_bad_steps: int) -> None:
    limit = run.config.max_bad_steps
    if num_bad_steps >= limit:
        _fail(
            writer,
            f"{num_bad_steps} steps in a row up to step {run.state.step} had a loss or gradient "
            f"that is not finite (--max-bad-steps {limit})",
        )


def _fail(writer: CheckpointWriter, reason: str) -> None:
    saved = writer.wait()[0] or "the start"
    raise ValueError(f"{reason}: continue from {saved} with a lower --learning-rate, or check the data")


def _next(batches: Iterator[Batch]) -> tuple[Batch | None, str]:
    """The next batch, or None and why there is none: other ranks must hear of it before they wait for gradients."""
    try:
        return next(batches), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


@contextmanager
def explain_errors(config: TrainConfig) -> Iterator[None]:
    """Turn an error of torch.compile, or too little memory of a GPU or CPU, into a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if is_compile_error(error):
            raise ValueError(f"torch.compile failed: {describe(error)}: train with --compile off") from None
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        where = f"out of memory on rank {rank()}" if world_size() > 1 else "out of memory"
        clips = config.batch_size // (world_size() * config.accumulate)
        advice = ["a smaller --preset or fewer --clip-frames"]
        if not config.activation_checkpointing:
            advice.insert(0, "--activation-checkpointing, which is slower and gives the same result")
        if clips > 1:
            advice[:0] = [
                f"a smaller --batch-size (now {config.batch_size})",
                f"a higher --accumulate (now {config.accumulate}), which gives the same result",
            ]
        where += f" with {clips} {'clip' if clips == 1 else 'clips'} at a time"
        raise ValueError(f"{where}: try {'; '.join(advice)}") from None


class StopRequest:
    """While this context is open, SIGTERM or Ctrl-C sets `requested`. A second Ctrl-C interrupts at once.

    The training loop then stops after the current step and saves a checkpoint.
    """

    def __init__(self, compiler: Compiler | None = None):
        self.requested, self._compiler = False, compiler

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        # On Ctrl-C the terminal signals all processes, and torchrun then sends the signal once more.
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        if self.requested and number == signal.SIGINT and not under_torchrun:
            raise KeyboardInterrupt
        if not self.requested and rank() == 0:
            tqdm.write("stopping after this step and saving a checkpoint (press Ctrl-C again to quit at once)")
        self.requested = True
        if self._compiler:
            self._compiler.stop()  # which could take minutes
