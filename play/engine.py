"""The engine: generates frames for all players of one model, at a fixed rate.

Every 1/fps seconds, all players that are due get their next frame from one batch, under the keys they hold at that
moment. A tick that cannot begin before the next one is due is dropped, never queued: players always see the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dreamrun.editing.drafts import Draft
from dreamrun.editing.page import edited_mp4
from dreamrun.play.follow import CheckpointFollower
from dreamrun.play.recording import Recording
from dreamrun.play.rollout_pool import Prompt, Rollout, RolloutPool, RolloutSettings, StepResult


class FrameReceiver(Protocol):
    """What the engine needs of a player."""

    rollout: Rollout | None
    keys_number: int  # number of the newest key message

    @property
    def active(self) -> bool:
        """Whether the player wants frames at present."""

    def is_due(self, tick: int) -> bool:
        """Whether the player gets a frame at this tick."""

    def take_action(self) -> int | np.ndarray:
        """The recorded action of the frame that is generated now."""

    def show_step(self, rollout: Rollout, step: StepResult, keys_number: int, timing: dict[str, Any]) -> None:
        """Receive a frame."""

    def pause(self, paused: bool, reason: str = "") -> None:
        """Pause or resume."""

    def on_new_weights(self, checkpoint_name: str) -> None:
        """The engine has loaded newer weights."""


class Engine:
    """All rollouts of one model, stepped at a fixed rate on one thread.

    Args:
        pool: the rollouts.
        model_thread: an executor with one thread, the only one that has used torch so far. A second thread that uses
            torch gets OpenMP threads of its own. With more of them than cores, all of them sleep while they wait, and
            a frame takes 1.5 times as long.
        checkpoint_name: the model's name for players and replay files.
        fps: ticks per second.
        num_steps: denoising steps per frame, unless a player asks for another number.
        follower: finds newer weights; None: the weights stay.
    """

    def __init__(
        self,
        pool: RolloutPool,
        model_thread: ThreadPoolExecutor,
        checkpoint_name: str,
        fps: float,
        num_steps: int,
        follower: CheckpointFollower | None = None,
    ):
        self.pool, self.checkpoint_name, self.fps, self.num_steps = pool, checkpoint_name, fps, num_steps
        self.config, self.game, self.space = pool.config, pool.game, pool.space
        self.guidance = pool.config.guidance  # unless a player asks for another scale
        self._model_thread, self._follower = model_thread, follower
        self._players: list[FrameReceiver] = []
        self._encoding = asyncio.Semaphore(1)  # one mp4 at a time
        self._wake_up = asyncio.Event()
        self._background: set[asyncio.Task] = set()

    @property
    def run_folder(self) -> Path | None:
        """The training run whose weights are loaded while it goes on; None: the weights stay."""
        return self._follower.run_folder if self._follower is not None else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends. Then stop all background tasks and the model thread."""
        self.run_in_background(self._tick_forever())
        if self._follower is not None:
            self.run_in_background(self._follow_run(self._follower))
        yield
        for task in self._background:
            task.cancel()
        self._model_thread.shutdown(wait=False, cancel_futures=True)

    def add_player(self, player: FrameReceiver) -> None:
        """Send frames to a player from now on."""
        self._players.append(player)

    def remove_player(self, player: FrameReceiver) -> None:
        """Send no more frames to a player. A player that was not added is ignored."""
        with contextlib.suppress(ValueError):
            self._players.remove(player)

    def wake(self) -> None:
        """Tell the engine that a player may want frames again."""
        self._wake_up.set()

    async def run_on_model_thread(self, function: Callable, *arguments: Any) -> Any:
        """Call a function on the model thread. Calls run one after another, in the order in which they were made."""
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, function, *arguments)

    async def start_rollout(self, prompt: Prompt, seed: int, settings: RolloutSettings) -> Rollout:
        """Start a rollout. If the caller is cancelled meanwhile, end it: nobody else holds a reference to it.

        Raises:
            ValueError: a setting is out of range, or the prompt does not fit the model.
        """
        starting = asyncio.ensure_future(self.run_on_model_thread(self.pool.start, prompt, seed, settings))

        def end(started: asyncio.Future[Rollout]) -> None:
            self.run_in_background(self.run_on_model_thread(self.pool.end, started.result()))

        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(end)
            raise

    async def generate(
        self, prompt: Prompt, seed: int, settings: RolloutSettings, actions: Sequence[int | np.ndarray]
    ) -> list[StepResult]:
        """Generate frames for a program, without a player. While people play, at most one frame per tick.

        Raises:
            ValueError: as `start_rollout`.
        """
        rollout = await self.start_rollout(prompt, seed, settings)
        try:
            steps = []
            for action in actions:
                steps += await self.run_on_model_thread(self.pool.step, [(rollout, action)])
                if any(player.active for player in self._players):
                    await asyncio.sleep(1.0 / self.fps)
            return steps
        finally:
            await self.run_on_model_thread(self.pool.end, rollout)

    async def dream_prompt(self, seed: int, settings: RolloutSettings) -> Prompt:
        """A prompt of one frame that is dreamt too: from noise, and from the words if the model has learnt any.

        Raises:
            ValueError: as `start_rollout`.
        """
        channels, height, width = self.config.frame_shape
        nothing = Prompt(np.zeros((0, height, width, channels), np.uint8), self.space.unknown(0))
        steps = await self.generate(nothing, seed, settings, [self.space.unknown(1)[0]])
        return Prompt(steps[0].frame[None], self.space.unknown(1))

    async def complete(self, draft: Draft, num_frames: int, seed: int, num_steps: int) -> bytes:
        """Fill in a clip, window by window between two frames of the players: an mp4 of its first `num_frames` frames.

        Raises:
            ValueError: the model never learnt to fill in frames.
        """
        windows = self.pool.complete(draft, seed, num_steps)
        while (result := await self.run_on_model_thread(next, windows, None)) is not None:
            frames = result
            if any(player.active for player in self._players):
                await asyncio.sleep(1.0 / self.fps)
        async with self._encoding:
            return await asyncio.to_thread(edited_mp4, frames, draft, num_frames, self.space, self.fps)

    def run_in_background(self, coroutine: Coroutine) -> None:
        """Run a coroutine as a task that ends with the engine. Exceptions are printed."""
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._on_task_done)

    async def encode_mp4(self, recording: Recording) -> bytes:
        """Encode a recording in a worker thread, one recording at a time."""
        async with self._encoding:
            return await asyncio.to_thread(recording.mp4, self.space, self.fps)

    async def _tick_forever(self) -> None:
        """Tick k is due k / fps seconds after the start. Of several late ticks only the newest runs."""
        loop, period = asyncio.get_running_loop(), 1.0 / self.fps
        start, tick = loop.time(), 0
        while True:
            if not any(player.active for player in self._players):
                self._wake_up.clear()
                await self._wake_up.wait()
                start, tick = loop.time(), 0
            await asyncio.sleep(start + tick * period - loop.time())
            due_players = [player for player in self._players if player.is_due(tick)]
            if due_players:
                await self._run_tick(due_players, tick)
            tick = max(tick + 1, int((loop.time() - start) / period))

    async def _run_tick(self, players: list[FrameReceiver], tick: int) -> None:
        """Generate one frame for each of some players."""
        jobs = [(player.rollout, player.take_action(), player.keys_number) for player in players]
        start = time.perf_counter()
        try:
            steps = await self.run_on_model_thread(self.pool.step, [(rollout, action) for rollout, action, _ in jobs])
        except Exception:  # the other players may go on, whatever failed
            traceback.print_exc()
            for player in players:
                player.pause(True, "The model failed. The server's log shows why. Start a new dream.")
            return
        timing = {"tick": tick, "ms": round(1000 * (time.perf_counter() - start), 1), "together": len(players)}
        for player, (rollout, _, keys_number), step in zip(players, jobs, steps, strict=True):
            player.show_step(rollout, step, keys_number, timing)

    async def _follow_run(self, follower: CheckpointFollower) -> None:
        """Load newer weights of a run between two frames."""
        while True:
            await asyncio.sleep(follower.POLL_SECS)
            short_lived = ThreadPoolExecutor(1)  # torch's OpenMP threads end with the thread that loads
            newer = await asyncio.get_running_loop().run_in_executor(short_lived, follower.poll)
            short_lived.shutdown()
            if newer is None:
                continue
            try:
                await self.run_on_model_thread(self.pool.swap_weights, newer.model, newer.weights_hash)
            except ValueError as error:
                print(f"warning: cannot continue with {newer.name}: {error}", file=sys.stderr)
                continue
            self.checkpoint_name = newer.name
            print(f"loaded newer weights: {newer.name}")
            for player in self._players:
                player.on_new_weights(newer.name)

    def _on_task_done(self, task: asyncio.Task) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())
