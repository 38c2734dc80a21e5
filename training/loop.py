"""The training loop, from top to bottom."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from tqdm import tqdm

from dreamrun.data.run_lock import lock_run_folder
from dreamrun.training.checkpoint import CheckpointNotSavedError
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import (
    all_reduce_max,
    barrier,
    exit_on_all_ranks,
    print0,
    process_group,
    raise_on_all_ranks,
    rank,
    world_size,
)
from dreamrun.training.log import Throughput
from dreamrun.training.memory import explain_out_of_memory
from dreamrun.training.step import train_step
from dreamrun.training.stop_request import StopRequest
from dreamrun.training.trainer import Trainer


def train(config: TrainConfig, command: str | None = None) -> Path | None:
    """Train a world model, together with the other ranks if torchrun started several. Return its last checkpoint.

    Args:
        command: the command line that started training. The run folder keeps it, for the model card.

    Raises:
        ValueError: settings, data or a checkpoint that cannot be used; a loader that failed, after a checkpoint was
            saved; too many bad steps in a row; not enough memory. With several ranks, rank 0 prints the error and
            every rank raises SystemExit.
        KeyboardInterrupt: training was stopped, after a checkpoint was saved.
        CheckpointNotSavedError: training has ended, but the last checkpoint could not be saved, for example because the
            disk is full. With several ranks every rank raises SystemExit with exit code 1.
    """
    with process_group(), ExitStack() as stack:
        trainer = Trainer(config)
        lock = lock_run_folder(config.out)
        raise_on_all_ranks(lambda: stack.enter_context(lock) if rank() == 0 else None)
        trainer.resume()
        state, max_steps = trainer.state, trainer.max_steps
        if state.step >= max_steps:
            print0(f"nothing left to do: {state.step} of {max_steps} steps are done")
            return trainer.resumed_from
        trainer.open_outputs(command)
        with closing(trainer), StopRequest() as stop:
            train_steps(trainer, stop)
            checkpoint = trainer.outputs.wait_for_checkpoint()
            error = trainer.outputs.checkpoint_error()
            trainer.outputs.plot(last=True)
        if error:
            fail_without_checkpoint(error, checkpoint)
        if state.step < max_steps:
            print0(f"stopped at step {state.step}, saved in {checkpoint}: --resume auto continues from there")
            barrier()  # torchrun kills rank 0 as soon as another rank ends
            raise KeyboardInterrupt
        return checkpoint


def fail_without_checkpoint(error: str, latest: Path | None) -> None:
    """Fail on all ranks because the last checkpoint could not be saved."""
    message = f"{error}; the newest checkpoint is {latest}" if latest else f"{error}; no checkpoint was saved"
    message += ": --resume auto continues from there" if latest else ""
    if world_size() > 1:
        exit_on_all_ranks(message, code=1)
    raise CheckpointNotSavedError(message)


def train_steps(trainer: Trainer, stop: StopRequest) -> None:
    """Train to the last step, or until a rank is asked to stop or has no more data."""
    config, state, max_steps = trainer.config, trainer.state, trainer.max_steps
    if state.step == 0 and config.init_from:
        trainer.validate()  # the loss to improve on
    throughput = Throughput(state.step, trainer.loader.wait_secs)
    disable = True if rank() else None  # None: only if standard error is not a terminal
    with tqdm(desc="training", total=max_steps, initial=state.step, unit=" steps", disable=disable) as progress:
        while state.step < max_steps:
            batch, data_error = trainer.next_batch()
            if all_reduce_max(stop.requested or batch is None):  # on any rank
                trainer.save_checkpoint()
                trainer.fail_without_data(data_error)
                return
            assert batch is not None
            with explain_out_of_memory(config):
                grad_norm = train_step(state, batch, config, max_steps)

            is_last = state.step == max_steps
            if state.step % config.log_every == 0 or is_last:
                trainer.log_training(grad_norm, throughput, progress)
            progress.update()
            with throughput.paused():
                val_loss = None
                if state.step % config.val_every == 0 or is_last:
                    val_loss = trainer.validate()
                if state.step % config.rollout_every == 0 or is_last:
                    trainer.rollout()
                if state.batch == trainer.loader.batches_per_epoch or is_last:
                    trainer.validate_epoch()
                # Save last, so that a resumed run repeats nothing.
                if state.step % config.checkpoint_every == 0 or is_last:
                    trainer.save_checkpoint(val_loss)
                if state.step % config.val_every == 0 or state.step % config.checkpoint_every == 0:
                    trainer.outputs.plot()
