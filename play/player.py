"""One connected player: what its messages do."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from dreamrun.data.video import mp4_bytes
from dreamrun.editing.page import TASKS, edited_mp4, mask_dream
from dreamrun.model.options import RANGES
from dreamrun.play.actions import key_labels, parse_action
from dreamrun.play.connection import Connection
from dreamrun.play.engine import Engine
from dreamrun.play.messages import (
    MAX_ACTION_CHARS,
    pack_pictures,
    parse_bool,
    parse_int,
    parse_keys,
    parse_settings,
    parse_text,
)
from dreamrun.play.playback import Playback, Recording, max_frames
from dreamrun.play.replay import MAX_REPLAY_FRAMES, Replay
from dreamrun.play.rollout_pool import Prompt, prompt_from_image

MAX_TICKS_PER_FRAME = 8  # at the lowest speed
MAX_WAITING_STEPS = 4  # single steps asked for but not done yet


class Player:
    """A player, from the connection's start to its end. All methods run on the event loop.

    A new player waits. `admit` gives it a place and the game of the first engine, `leave` frees all that it holds.
    """

    def __init__(self, engines: dict[str, Engine], connection: Connection, server_id: str, max_recording_frames: int):
        self.connection, self.playback = connection, Playback(connection)
        self.recording_id: str | None = None  # random, so that nobody else can ask for the files
        self.recorded_files: dict[str, bytes] = {}  # of the newest recording, by name
        self._engines, self._server_id, self._max_recording_frames = engines, server_id, max_recording_frames
        self._engine = next(iter(engines.values()))
        self.admitted = False
        self._admission_time = 0.0
        self._image_prompt: Prompt | None = None
        self._editing = False  # whether a clip is being made of the dream

    def admit(self) -> None:
        """Let the player play, and send what its page needs to know of the game."""
        self.admitted, self._admission_time = True, time.monotonic()
        self._enter(self._engine)

    def leave(self) -> None:
        """Free everything that the player holds, in the background."""
        self._engine.playbacks.discard(self.playback)
        self.playback.recording, self.recording_id, self.recorded_files = None, None, {}
        self._engine.run_in_background(self._end_rollout())

    @property
    def idle_secs(self) -> float:
        """Seconds since the last message, or since admission if there was none."""
        return time.monotonic() - max(self._admission_time, self.connection.last_received)

    def _enter(self, engine: Engine) -> None:
        """Play the game of an engine, and describe it to the page."""
        self._engine, self._image_prompt = engine, None
        self.playback.held_action = engine.space.action_for_keys(())
        engine.playbacks.add(self.playback)
        channels, height, width = engine.config.frame_shape
        self.connection.send(
            "hello",
            server=self._server_id,
            game=engine.game.environment or "a game",
            game_name=engine.pool.name,
            checkpoint=engine.checkpoint_name,
            height=height,
            width=width,
            channels=channels,
            fps=engine.fps,
            actions=engine.space.names,
            keys=key_labels(engine.space),
            aliases=engine.space.key_aliases,
            num_steps=engine.settings.num_steps,
            most_steps=int(RANGES["num_steps"].high_in_play),
            num_records=len(engine.gallery),
            words=(engine.settings.text or engine.pool.caption) if engine.config.words else None,
        )

    async def handle(self, message: dict | bytes) -> None:
        """Do what a message, or an image, asks for. One that comes before there is a place is ignored."""
        if not self.admitted:
            return
        if isinstance(message, bytes):
            self._image_prompt = prompt_from_image(message, self._engine.config, self._engine.space)
            self.connection.send("image")
            return
        if message["type"] not in self._HANDLERS:
            raise ValueError(f"unknown type {message['type']!r:.40}")
        await self._HANDLERS[message["type"]](self, message)

    async def _set_keys(self, message: dict) -> None:
        self.playback.held_action = self._engine.space.action_for_keys(parse_keys(message, "held"))
        self.playback.keys_number = parse_int(message, "number", 0, 2**53, 0)

    async def _set_speed(self, message: dict) -> None:
        self.playback.ticks_per_frame = parse_int(message, "every", 1, MAX_TICKS_PER_FRAME, 1)

    async def _pause(self, message: dict) -> None:
        self.playback.pause(parse_bool(message, "on"))
        self._engine.wake_up.set()

    async def _add_single_step(self, message: dict) -> None:
        """Generate one frame, under the action that the message names or the held keys; during play, pause first."""
        playback, action = self.playback, None
        if message.get("action") is not None:
            action = parse_action(parse_text(message, "action", MAX_ACTION_CHARS), self._engine.space)
        if playback.rollout is not None and not playback.paused:
            playback.pause(True)
        if playback.paused and len(playback.single_steps) < MAX_WAITING_STEPS:
            playback.single_steps.append(action)
            self._engine.wake_up.set()

    async def _choose_game(self, message: dict) -> None:
        """Play another game of the checkpoint: the page gets its description, and starts a dream of it."""
        name = parse_text(message, "name", MAX_ACTION_CHARS)
        if name not in self._engines:
            raise ValueError(f"unknown game {name!r:.40}")
        await self._end_rollout()
        self._engine.playbacks.discard(self.playback)
        self._enter(self._engines[name])

    async def _start_rollout(self, message: dict) -> None:
        engine, gallery, playback = self._engine, self._engine.gallery, self.playback
        settings = parse_settings(message, replace(engine.settings, seed=random_seed()))
        if message.get("dream") is True:
            (prompt,) = await engine.run_between_frames(engine.pool.dream_prompt(settings))
        else:
            prompt = await self._find_prompt(message)
        unavailable_reason = await asyncio.to_thread(gallery.real_game_unavailable_reason, prompt)
        await self._end_rollout()
        playback.rollout = await engine.start_rollout(prompt, settings)
        playback.paused = True
        playback.single_steps.clear()
        if message.get("real") and unavailable_reason is None:
            await self._add_real_game()
        self.connection.send(
            "started",
            **settings.to_dict(text_name="words"),
            real=playback.real_game is not None,
            record=prompt.record_id,
            moment=prompt.moment,
            last_moment=None if prompt.record_id is None else gallery.num_frames(prompt.record_id) - 1,
            prompt_frames=len(prompt.frames),
            why_no_real_game=unavailable_reason,
        )
        pictures = [prompt.frames[-1]] + ([playback.real_game.frame] if playback.real_game else [])
        header = {"type": "frame", "frame": 0, "action": None, "keys": playback.keys_number, "real_ended": False}
        # After "started", instead of an older dream's frame.
        self.connection.send_frame(pack_pictures(header, pictures))

    async def _find_prompt(self, message: dict) -> Prompt:
        """The prompt that a "start" message names: a moment of a record, or the image that was sent."""
        gallery = self._engine.gallery
        record_id = parse_int(message, "record", 0, len(gallery) - 1)
        if record_id is None:
            if self._image_prompt is None:
                raise ValueError("no image has been sent")
            return self._image_prompt
        moment = parse_int(message, "moment", 0, gallery.num_frames(record_id) - 1, gallery.default_moment(record_id))
        return await asyncio.to_thread(gallery.prompt, record_id, moment)

    async def _end_rollout(self) -> None:
        self._stop_recording()
        self.playback.rollout, rollout = None, self.playback.rollout
        if rollout is not None:
            await self._engine.run_on_model_thread(self._engine.pool.end, rollout)
        await self._end_real_game()

    async def _switch_real_game(self, message: dict) -> None:
        playback = self.playback
        if playback.rollout is None:
            return
        if parse_bool(message, "on"):
            reason = await asyncio.to_thread(self._engine.gallery.real_game_unavailable_reason, playback.rollout.prompt)
            if reason is not None:
                raise ValueError(reason)
            await self._add_real_game()
        else:
            await self._end_real_game()
        running = playback.real_game
        header = {"type": "real", "on": running is not None, "real_ended": running is not None and running.ended}
        # With its picture: while the dream is paused, no frame brings one.
        self.connection.send_raw(pack_pictures(header, [running.frame] if running else []))

    async def _add_real_game(self) -> None:
        """Bring the real game to the present of the rollout: replay it to the prompt, then apply the actions since."""
        rollout = self.playback.rollout
        if self.playback.real_game is None:
            real_game = await asyncio.to_thread(self._engine.gallery.real_game, rollout.prompt)
            await self._engine.run_on_model_thread(real_game.apply_new_actions, rollout.actions)
            self.playback.real_game = real_game

    async def _end_real_game(self) -> None:
        self.playback.real_game, real_game = None, self.playback.real_game
        if real_game is not None:  # a tick that began before may still step it, on the same thread
            await self._engine.run_on_model_thread(real_game.environment.close)

    async def _switch_recording(self, message: dict) -> None:
        playback = self.playback
        if not parse_bool(message, "on"):
            self._stop_recording()
        elif playback.rollout is not None and playback.recording is None:
            if len(playback.rollout.actions) > MAX_REPLAY_FRAMES:
                raise ValueError("This dream is too long to be recorded. Start a new one.")
            longest = max_frames(self._engine.config.frame_shape, self._max_recording_frames)
            playback.recording = Recording(playback.rollout, longest, self._stop_long_recording)
            self.connection.send("recording")

    def _stop_long_recording(self) -> None:
        self.connection.send("notice", text="The recording has reached its maximum length and has stopped.")
        self._stop_recording()

    def _stop_recording(self) -> None:
        self.playback.recording, recording = None, self.playback.recording
        if recording is not None:
            self._engine.run_in_background(self._publish_recording(recording, self._engine))

    async def _publish_recording(self, recording: Recording, engine: Engine) -> None:
        files, note = {}, ""
        if recording.steps:
            try:
                first, last = recording.steps[0].frame_index, recording.steps[-1].frame_index
                name = engine.checkpoint_name
                replay = Replay.from_rollout(recording.rollout, first, last + 1, name, engine.pool.name)
                files["dream.json"] = replay.to_json().encode()
            except ValueError as error:
                note = str(error)
            files["dream.mp4"] = await engine.encode(mp4_bytes, recording.video(engine.space), engine.fps, True)
        self._publish("recorded", files, files=sorted(files), frames=len(recording.steps), note=note)

    async def _edit(self, message: dict) -> None:
        """Make a clip of the dream in the background; `editing.page` has the tasks."""
        engine, rollout = self._engine, self.playback.rollout
        task = parse_text(message, "task", MAX_ACTION_CHARS)
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r:.40}")
        if not engine.config.can_fill:
            raise ValueError("This model has not learnt to fill in frames.")
        if rollout is None or self._editing:
            return
        prompt, space = rollout.prompt, engine.space
        actions = np.array([*prompt.actions, *rollout.actions], prompt.actions.dtype)
        masked, num_frames = mask_dream(
            task, prompt.frames, actions, rollout.recent, space, engine.config.window_frames
        )
        windows = engine.pool.complete(masked, replace(rollout.settings, seed=random_seed(), guidance=1.0))

        async def edit() -> None:
            try:
                *_, clip = await engine.run_between_frames(windows)
                mp4 = await engine.encode(edited_mp4, clip, masked, num_frames, engine.space, engine.fps)
            finally:
                self._editing = False
            self._publish("edited", {"dream.mp4": mp4}, task=task, frames=num_frames)

        self._editing = True
        engine.run_in_background(edit())

    def _publish(self, message_type: str, contents: dict[str, bytes], **fields: Any) -> None:
        """Tell the browser where new files are. They replace the older ones."""
        self.recording_id, self.recorded_files = secrets.token_urlsafe(16), contents
        self.connection.send(message_type, place=self.recording_id, **fields)

    _HANDLERS: ClassVar[dict[str, Callable[[Player, dict], Awaitable[None]]]] = {
        "keys": _set_keys,
        "start": _start_rollout,
        "pause": _pause,
        "step": _add_single_step,
        "speed": _set_speed,
        "real": _switch_real_game,
        "record": _switch_recording,
        "edit": _edit,
        "game": _choose_game,
    }


def random_seed() -> int:
    """A seed that a player could have chosen."""
    return secrets.randbelow(int(RANGES["seed"].high_in_play) + 1)
