"""One connected player: what its messages do, and which frames it is sent."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from dreamrun.data.metrics import psnr_from_mse
from dreamrun.editing.page import TASKS, make_draft
from dreamrun.model.game_info import MAX_CAPTION_CHARS
from dreamrun.model.text import check_words
from dreamrun.play.actions import actions_to_json, parse_action
from dreamrun.play.connection import Connection
from dreamrun.play.engine import Engine
from dreamrun.play.messages import (
    MAX_ACTION_CHARS,
    MAX_SEED,
    BadMessage,
    pack_pictures,
    parse_bool,
    parse_float,
    parse_int,
    parse_names,
    parse_text,
)
from dreamrun.play.played_game import MAX_NUM_STEPS, PlayedGame
from dreamrun.play.recording import MAX_REPLAY_FRAMES, Recording
from dreamrun.play.replay import Replay
from dreamrun.play.rollout_pool import Prompt, Rollout, RolloutSettings, StepResult, prompt_from_image

MAX_GUIDANCE = 8.0
MAX_TICKS_PER_FRAME = 8  # at the lowest speed
MAX_WAITING_STEPS = 4  # single steps asked for but not done yet
MAX_PSNR = 99.0  # dB; sent for identical pictures, as JSON has no infinity
PSNR_WINDOW = 15  # frames whose squared errors are averaged


class Player:
    """A player, from the connection's start to its end. All methods run on the event loop.

    A new player waits. `admit` gives it a place and `leave` frees everything that it holds.

    Args:
        games: by name; each has an engine, which generates the frames, and a gallery of prompts to start from.
        connection: to the player's browser.
        server_id: of the server that the player is connected to.
    """

    def __init__(self, games: dict[str, PlayedGame], connection: Connection, server_id: str):
        self.connection = connection
        self.rollout: Rollout | None = None
        self.keys_number = 0  # number of the newest key message; frames return it
        self.recording_id: str | None = None  # random, so that nobody else can ask for the files
        self.recorded_files: dict[str, bytes] = {}  # of the newest recording, by name
        self._games, self._server_id = games, server_id
        self._game = next(iter(games.values()))
        self._engine, self._gallery = self._game.engine, self._game.gallery
        self._held_action = self._engine.space.action_for_keys(())  # the recorded action that the held keys mean
        self._admitted = False
        self._admission_time = 0.0
        self._paused, self._ticks_per_frame = True, 1
        # Frames to generate while paused, each under an action, or under the held keys (None).
        self._single_steps: deque[int | np.ndarray | None] = deque()
        self._image_prompt: Prompt | None = None
        self._recording: Recording | None = None
        self._editing = False  # whether a clip is being made of the dream
        self._squared_errors: deque[float] = deque(maxlen=PSNR_WINDOW)  # of each dream frame against the real one

    async def run(self) -> None:
        """Handle messages until the connection ends."""
        await self.connection.run(self._handle_message, self._handle_image)

    def admit(self) -> None:
        """Let the player play, and send what its page needs to know of the game."""
        self._admitted, self._admission_time = True, time.monotonic()
        self._engine.add_player(self)
        self._say_hello()

    def leave(self) -> None:
        """Free everything that the player holds, in the background."""
        self._engine.remove_player(self)
        self._recording, self.recording_id, self.recorded_files = None, None, {}
        self._engine.run_in_background(self._end_rollout())

    @property
    def idle_secs(self) -> float:
        """Seconds since the last message, or since admission if there was none."""
        return time.monotonic() - max(self._admission_time, self.connection.last_received)

    # Called by the engine: see `play.engine.FrameReceiver`.

    @property
    def active(self) -> bool:
        return self.rollout is not None and (not self._paused or bool(self._single_steps))

    def is_due(self, tick: int) -> bool:
        if self.rollout is None:
            return False
        return bool(self._single_steps) if self._paused else tick % self._ticks_per_frame == 0

    def take_action(self) -> int | np.ndarray:
        action = self._single_steps.popleft() if self._paused else None
        return self._held_action if action is None else action

    def pause(self, paused: bool, reason: str = "") -> None:
        self._paused = paused
        self._single_steps.clear()
        self.connection.send("paused", on=paused, reason=reason)
        self._engine.wake()

    def on_new_weights(self, checkpoint_name: str) -> None:
        self.connection.send("weights", checkpoint=checkpoint_name)

    def show_step(self, rollout: Rollout, step: StepResult, keys_number: int, timing: dict[str, Any]) -> None:
        if rollout is not self.rollout:
            return  # the player has started another rollout in the meantime
        if self._recording and not self._recording.add(step):
            self.connection.send("notice", text="The recording has reached its maximum length and has stopped.")
            self._stop_recording()
        header = {"type": "frame", "frame": step.frame_index + 1, **timing}
        pictures = [step.frame]
        if step.real_frame is not None:
            pictures.append(step.real_frame)
            error = np.square(step.frame.astype(np.float32) - step.real_frame.astype(np.float32)).mean()
            self._squared_errors.append(float(error))
            header["psnr"] = round(min(MAX_PSNR, float(psnr_from_mse(np.mean(self._squared_errors)))), 1)
            header["real_ended"] = step.real_ended
        header |= {"action": actions_to_json(step.action), "keys": keys_number}
        self.connection.send_frame(pack_pictures(header, pictures))

    # Messages from the browser.

    async def _handle_message(self, message: dict) -> None:
        if not self._admitted:
            return
        handlers: dict[str, Callable] = {
            "keys": self._set_keys,
            "start": self._start_rollout,
            "pause": lambda message: self.pause(parse_bool(message, "on")),
            "step": self._add_single_step,
            "speed": self._set_speed,
            "real": self._switch_real_game,
            "record": self._switch_recording,
            "edit": self._edit,
            "game": self._choose_game,
        }
        handler = handlers.get(message["type"])
        if handler is None:
            raise BadMessage(f"unknown type {message['type']!r:.40}")
        coroutine = handler(message)
        if coroutine is not None:
            await coroutine

    def _handle_image(self, pixels: bytes) -> None:
        self._image_prompt = prompt_from_image(pixels, self._engine.config, self._engine.space)
        self.connection.send("image")

    def _set_keys(self, message: dict) -> None:
        self._held_action = self._engine.space.action_for_keys(parse_names(message, "held"))
        self.keys_number = parse_int(message, "number", 0, 2**53, 0)

    def _set_speed(self, message: dict) -> None:
        self._ticks_per_frame = parse_int(message, "every", 1, MAX_TICKS_PER_FRAME, 1)

    def _add_single_step(self, message: dict) -> None:
        """Generate one frame, under the action that the message names or the held keys; during play, pause first."""
        action = None
        if message.get("action") is not None:
            action = parse_action(parse_text(message, "action", MAX_ACTION_CHARS), self._engine.space)
        if self.rollout is not None and not self._paused:
            self.pause(True)
        if self._paused and len(self._single_steps) < MAX_WAITING_STEPS:
            self._single_steps.append(action)
            self._engine.wake()

    async def _choose_game(self, message: dict) -> None:
        """Play another game of the checkpoint: the page gets its description, and starts a dream of it."""
        name = parse_text(message, "name", MAX_ACTION_CHARS)
        if name not in self._games:
            raise BadMessage(f"unknown game {name!r:.40}")
        await self._end_rollout()
        self._engine.remove_player(self)
        self._game = self._games[name]
        self._engine, self._gallery = self._game.engine, self._game.gallery
        self._image_prompt, self._held_action = None, self._engine.space.action_for_keys(())
        self._engine.add_player(self)
        self._say_hello()

    async def _start_rollout(self, message: dict) -> None:
        has_words = message.get("words") is not None
        settings = RolloutSettings(
            num_steps=parse_int(message, "num_steps", 1, MAX_NUM_STEPS, self._engine.num_steps),
            guidance=parse_float(message, "guidance", 0.0, MAX_GUIDANCE, self._engine.guidance),
            words=check_words(parse_text(message, "words", MAX_CAPTION_CHARS)) if has_words else None,
        )
        seed = parse_int(message, "seed", 0, MAX_SEED)
        seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
        dreamt = message.get("dream") is True
        prompt = await self._engine.dream_prompt(seed, settings) if dreamt else await self._find_prompt(message)
        unavailable_reason = await asyncio.to_thread(self._gallery.real_game_unavailable_reason, prompt)
        with_real_game = bool(message.get("real")) and unavailable_reason is None
        await self._end_rollout()
        self.rollout = await self._engine.start_rollout(prompt, seed, settings)
        self._paused = True
        self._single_steps.clear()
        if with_real_game:
            await self._add_real_game()
        self.connection.send(
            "started",
            seed=seed,
            num_steps=settings.num_steps,
            guidance=settings.guidance,
            real=self.rollout.real_game is not None,
            record=prompt.record_id,
            moment=prompt.moment,
            last_moment=None if prompt.record_id is None else self._gallery.num_frames(prompt.record_id) - 1,
            prompt_frames=len(prompt.frames),
            why_no_real_game=unavailable_reason,
        )
        pictures = [prompt.frames[-1]]
        if self.rollout.real_game:
            pictures.append(self.rollout.real_game.frame)
        header = {"type": "frame", "frame": 0, "action": None, "keys": self.keys_number, "real_ended": False}
        self.connection.send_frame(
            pack_pictures(header, pictures)
        )  # after "started", instead of an older dream's frame

    async def _find_prompt(self, message: dict) -> Prompt:
        """The prompt that a "start" message names: a moment of a record, or the image that was sent."""
        if message.get("record") is None:
            if self._image_prompt is None:
                raise BadMessage("no image has been sent")
            return self._image_prompt
        record_id = parse_int(message, "record", 0, len(self._gallery) - 1)
        last_moment = self._gallery.num_frames(record_id) - 1
        moment = parse_int(message, "moment", 0, last_moment, self._gallery.default_moment(record_id))
        return await asyncio.to_thread(self._gallery.prompt, record_id, moment)

    async def _end_rollout(self) -> None:
        self._stop_recording()
        self.rollout, rollout = None, self.rollout
        self._squared_errors.clear()
        if rollout is not None:
            await self._engine.run_on_model_thread(self._engine.pool.end, rollout)
            if rollout.real_game:
                await self._engine.run_on_model_thread(rollout.real_game.close)

    async def _switch_real_game(self, message: dict) -> None:
        rollout = self.rollout
        if rollout is None:
            return
        if parse_bool(message, "on"):
            reason = await asyncio.to_thread(self._gallery.real_game_unavailable_reason, rollout.prompt)
            if reason is not None:
                raise ValueError(reason)
            await self._add_real_game()
        elif rollout.real_game:
            rollout.real_game, real_game = None, rollout.real_game
            await self._engine.run_on_model_thread(real_game.close)
        running = rollout.real_game
        header = {"type": "real", "on": running is not None, "real_ended": running is not None and running.ended}
        # With its picture: while the dream is paused, no frame brings one.
        self.connection.send_raw(pack_pictures(header, [running.frame] if running else []))

    async def _add_real_game(self) -> None:
        """Bring the real game to the present of the rollout: replay it to the prompt, then apply the actions since."""
        rollout = self.rollout
        if rollout.real_game is None:
            real_game = await asyncio.to_thread(self._gallery.real_game, rollout.prompt)
            await self._engine.run_on_model_thread(rollout.add_real_game, real_game)
            self._squared_errors.clear()

    async def _switch_recording(self, message: dict) -> None:
        if not parse_bool(message, "on"):
            self._stop_recording()
        elif self.rollout is not None and self._recording is None:
            if len(self.rollout.actions) > MAX_REPLAY_FRAMES:
                raise ValueError("This dream is too long to be recorded. Start a new one.")
            self._recording = Recording(self.rollout)
            self.connection.send("recording")

    def _stop_recording(self) -> None:
        self._recording, recording = None, self._recording
        if recording is not None:
            self._engine.run_in_background(self._publish_recording(recording, self._engine))

    async def _publish_recording(self, recording: Recording, engine: Engine) -> None:
        """Write a recording's files, and tell the browser where they are. They replace those of the one before."""
        files, note = {}, ""
        if recording.steps:
            try:
                first, last = recording.steps[0].frame_index, recording.steps[-1].frame_index
                name = engine.checkpoint_name
                replay = Replay.from_rollout(recording.rollout, first, last + 1, name, engine.pool.name)
                files["dream.json"] = replay.to_json().encode()
            except ValueError as error:
                note = str(error)
            files["dream.mp4"] = await engine.encode_mp4(recording)
        self.recording_id, self.recorded_files = secrets.token_urlsafe(16), files
        self.connection.send(
            "recorded", place=self.recording_id, files=sorted(files), frames=len(recording.steps), note=note
        )

    async def _edit(self, message: dict) -> None:
        """Make a clip of the dream in the background; `play.edits` has the tasks."""
        engine, task = self._engine, parse_text(message, "task", MAX_ACTION_CHARS)
        if task not in TASKS:
            raise BadMessage(f"unknown task {task!r:.40}")
        if not engine.config.can_fill:
            raise ValueError("This model has not learnt to fill in frames.")
        if self.rollout is not None and not self._editing:
            draft, num_frames = make_draft(task, self.rollout, engine.space, engine.config.window_frames)
            self._editing = True
            editing = engine.complete(
                draft, num_frames, secrets.randbelow(MAX_SEED + 1), self.rollout.settings.num_steps
            )
            engine.run_in_background(self._publish_edit(task, editing, num_frames))

    async def _publish_edit(self, task: str, editing: Awaitable[bytes], num_frames: int) -> None:
        """Fill in a clip, and tell the browser where its video is. It replaces the files of the last recording."""
        try:
            mp4 = await editing
        finally:
            self._editing = False
        self.recording_id, self.recorded_files = secrets.token_urlsafe(16), {"dream.mp4": mp4}
        self.connection.send("edited", task=task, place=self.recording_id, frames=num_frames)

    def _say_hello(self) -> None:
        """Describe the game that is played to the page."""
        self.connection.send("hello", server=self._server_id, **self._game.describe())
