"""The engine: generates frames for all players of one model, at a fixed rate.

Every 1/fps seconds, all players that are due get their next frame from one batch, under the keys they hold at that
moment. A tick that cannot begin before the next one is due is dropped, never queued: players always see the newest.
"""

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from dreamrun.model.options import ResolvedSettings
from dreamrun.play.follow import CheckpointFollower
from dreamrun.play.gallery import Gallery, RealGame
from dreamrun.play.playback import Playback
from dreamrun.play.rollout_pool import Prompt, Rollout, RolloutPool, StepResult

Item = TypeVar("Item")


class Engine:
    """All rollouts of one model, stepped at a fixed rate on one thread.

    Args:
        gallery: the prompts that players start from.
        model_thread: an executor with one thread, the only one that has used torch so far. A second thread that uses
            torch gets OpenMP threads of its own. With more of them than cores, all of them sleep while they wait, and
            a frame takes 1.5 times as long.
        settings: of dreams, unless a player asks for others.
        follower: finds newer weights; None: the weights stay.
    """

    def __init__(
        self,
        pool: RolloutPool,
        gallery: Gallery,
        model_thread: ThreadPoolExecutor,
        checkpoint_name: str,
        fps: float,
        settings: ResolvedSettings,
        follower: CheckpointFollower | None = None,
    ):
        self.pool, self.gallery = pool, gallery
        self.checkpoint_name, self.fps, self.settings = checkpoint_name, fps, settings
        self.config, self.game, self.space = pool.config, pool.game, pool.space
        self._model_thread, self.follower = model_thread, follower
        self.playbacks: set[Playback] = set()  # of the players who get frames
        self._encoding = asyncio.Semaphore(1)  # one mp4 at a time
        self.wake_up = asyncio.Event()  # set when a player may want frames again
        self._background: set[asyncio.Task] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends. Then stop all background tasks and the model thread."""
        self.run_in_background(self._tick_forever())
        if self.follower is not None:
            self.run_in_background(self._follow_run(self.follower))
        yield
        for task in self._background:
            task.cancel()
        self._model_thread.shutdown(wait=False, cancel_futures=True)

    async def run_on_model_thread(self, function: Callable, *arguments: Any) -> Any:
        """Call a function on the model thread. Calls run one after another, in the order in which they were made."""
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, function, *arguments)

    async def start_rollout(self, prompt: Prompt, settings: ResolvedSettings) -> Rollout:
        """Start a rollout. If the caller is cancelled meanwhile, end it: nobody else holds a reference to it."""
        starting = asyncio.ensure_future(self.run_on_model_thread(self.pool.start, prompt, settings))

        def end(started: asyncio.Future[Rollout]) -> None:
            self.run_in_background(self.run_on_model_thread(self.pool.end, started.result()))

        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(end)
            raise

    async def run_between_frames(self, work: Generator[Item, None, None]) -> list[Item]:
        """All items of a generator that uses the model. While people play, it gives at most one item per tick."""
        items = []
        try:
            while (item := await self.run_on_model_thread(next, work, None)) is not None:
                items.append(item)
                if any(playback.active for playback in self.playbacks):
                    await asyncio.sleep(1.0 / self.fps)
        finally:
            with contextlib.suppress(RuntimeError):  # the model thread has ended with the server
                await self.run_on_model_thread(work.close)
        return items

    async def encode(self, make_mp4: Callable[..., bytes], *arguments: Any) -> bytes:
        """Call a function in a worker thread, one at a time."""
        async with self._encoding:
            return await asyncio.to_thread(make_mp4, *arguments)

    def run_in_background(self, coroutine: Coroutine) -> None:
        """Run a coroutine as a task that ends with the engine. Exceptions are printed."""
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._on_task_done)

    async def _tick_forever(self) -> None:
        """Tick k is due k / fps seconds after the start. Of several late ticks only the newest runs."""
        loop, period = asyncio.get_running_loop(), 1.0 / self.fps
        start, tick = loop.time(), 0
        while True:
            if not any(playback.active for playback in self.playbacks):
                self.wake_up.clear()
                await self.wake_up.wait()
                start, tick = loop.time(), 0
            await asyncio.sleep(start + tick * period - loop.time())
            due = [playback for playback in self.playbacks if playback.is_due(tick)]
            if due:
                await self._run_tick(due, tick)
            tick = max(tick + 1, int((loop.time() - start) / period))

    async def _run_tick(self, playbacks: list[Playback], tick: int) -> None:
        """Generate one frame for each of some players."""
        jobs = [(playback.rollout, playback.take_action(), playback.real_game) for playback in playbacks]
        keys_numbers = [playback.keys_number for playback in playbacks]
        start = time.perf_counter()
        try:
            steps = await self.run_on_model_thread(self._step, jobs)
        except Exception:  # the other players may go on, whatever failed
            traceback.print_exc()
            for playback in playbacks:
                playback.pause(True, "The model failed. The server's log shows why. Start a new dream.")
            return
        timing = {"tick": tick, "ms": round(1000 * (time.perf_counter() - start), 1), "together": len(playbacks)}
        for playback, (rollout, *_), keys_number, step in zip(playbacks, jobs, keys_numbers, steps, strict=True):
            playback.show_step(rollout, step, keys_number, timing)

    def _step(self, jobs: list[tuple[Rollout, int | np.ndarray, RealGame | None]]) -> list[StepResult]:
        """On the model thread: the next frame of each rollout, and of the real game beside it."""
        steps = self.pool.step([(rollout, action) for rollout, action, _ in jobs])
        for i, (rollout, _, real_game) in enumerate(jobs):
            if real_game is not None:
                real_game.apply_new_actions(rollout.actions)
                psnr = real_game.psnr(steps[i].frame)
                steps[i] = replace(steps[i], real_frame=real_game.frame, real_ended=real_game.ended, psnr=psnr)
        return steps

    async def _follow_run(self, follower: CheckpointFollower) -> None:
        """Load newer weights of a run between two frames."""
        while True:
            await asyncio.sleep(follower.poll_secs)
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
            for playback in self.playbacks:
                playback.connection.send("weights", checkpoint=newer.name)

    def _on_task_done(self, task: asyncio.Task) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())
