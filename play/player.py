"""One connected browser: what it asks for, and what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from play.actions import to_plain
from play.messages import MAX_SEED, BadMessage, parse, parse_bool, parse_float, parse_int, parse_names, with_pixels
from play.recording import MAX_REPLAY_FRAMES, Recording
from play.replay import Replay
from play.rollout_pool import Prompt, Rollout, RolloutSettings, Tick, image_prompt
from training.metrics import psnr_from_mse

if TYPE_CHECKING:
    from play.server import PlayServer

MOST_STEPS, MOST_GUIDANCE = 32, 8.0
SLOWEST = 8  # the most ticks that a slowed-down dream takes for a frame
SEND_TIMEOUT_SECS = 10.0  # a browser that takes nothing for so long is gone
MESSAGES_PER_SEC, MESSAGE_BURST = 100.0, 200.0
COSTS = {"start": 20.0, "real": 20.0, "record": 20.0, "image": 20.0}  # in messages; else 1
PSNR_TICKS = 15  # over which the PSNR runs


class Player:
    """A connection, from being accepted to being closed. All of it runs on the event loop."""

    def __init__(self, server: PlayServer, socket: WebSocket):
        self._server, self._socket = server, socket
        self.playing = False  # or waiting for a place
        self.last_message = time.monotonic()
        self.dream: Rollout | None = None
        self.paused, self._single_steps, self._every = True, 0, 1
        self.action = server.space.action_for_keys(())  # the recorded action that its keys mean now
        self.keys_number = 0  # the page's own of its newest key message, echoed with the frames that heed it
        self._image: Prompt | None = None
        self._recording: Recording | None = None
        self._errors: deque[float] = deque(maxlen=PSNR_TICKS)  # squared, of each picture beside the real one
        self._outbox: deque[str | bytes] = deque()
        self._picture: bytes | None = None  # the newest frame; an older one that was not sent is dropped
        self._news = asyncio.Event()
        self._allowance, self._allowance_time = MESSAGE_BURST, time.monotonic()
        self._closing: str | None = None

    # What the server does with a player.

    async def run(self) -> None:
        """Talk until either side has had enough."""
        sender = asyncio.create_task(self._send())
        receiver = asyncio.create_task(self._receive())
        try:
            done, _ = await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # RuntimeError: Starlette's, of a socket that has just closed
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)
            if self._closing is not None:
                with contextlib.suppress(Exception):  # it may be gone already
                    async with asyncio.timeout(SEND_TIMEOUT_SECS):
                        await self._socket.close(1008, self._closing)

    def say(self, kind: str, **fields: Any) -> None:
        """Send a message, soon."""
        self._post(json.dumps({"type": kind, **fields}))

    def close(self, reason: str) -> None:
        """Say why, and hang up."""
        self._closing = reason
        self._news.set()

    def enter(self) -> None:
        """A place has come free."""
        self.playing = True
        self.last_message = time.monotonic()
        self._post(json.dumps(self._server.greeting()))
        self._post(self._server.gallery_pictures)

    def pause(self, paused: bool, reason: str = "") -> None:
        """Stop or go on."""
        self.paused = paused
        self.say("paused", on=paused, reason=reason)
        self._server.wake()

    def due(self, tick: int) -> bool:
        """Whether the dream makes a frame at this tick."""
        if self.dream is None:
            return False
        return self._single_steps > 0 if self.paused else tick % self._every == 0

    @property
    def active(self) -> bool:
        """Whether it makes frames at all at present."""
        return self.dream is not None and (not self.paused or self._single_steps > 0)

    def show(self, dream: Rollout, result: Tick, keys_number: int, **told: Any) -> None:
        """A tick's frame, on its way to the screen."""
        if dream is not self.dream:
            return  # it was begun anew meanwhile
        self._single_steps = max(0, self._single_steps - 1)
        if self._recording and not self._recording.add(result):
            self.say("notice", text="The recording is as long as it can be: stopped.")
            self._stop_recording()
        pictures = [result.frame]
        if result.real_frame is not None:
            pictures.append(result.real_frame)
            error = np.square(result.frame.astype(np.float32) - result.real_frame.astype(np.float32)).mean()
            self._errors.append(float(error))
            told["psnr"] = round(min(99.0, float(psnr_from_mse(np.mean(self._errors)))), 1)
            told["real_ended"] = result.real_ended
        told |= {"action": to_plain(result.action), "keys": keys_number}
        header = {"type": "frame", "frame": result.place + 1, **told}
        self._picture = with_pixels(header, pictures)
        self._news.set()

    async def leave(self) -> None:
        """Free what it holds."""
        self._recording = None
        await self._forget_dream()

    # What the browser asks for.

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self.last_message = time.monotonic()
            try:
                if message.get("bytes") is not None:
                    self._pay("image")
                    self._take_image(message["bytes"])
                else:
                    parsed = parse(message.get("text") or "")
                    self._pay(parsed["type"])
                    await self._obey(parsed)
            except BadMessage as error:
                self.say("error", text=f"Not understood: {error}")
            except (ValueError, OSError) as error:
                self.say("error", text=str(error))
            except WebSocketDisconnect:
                raise
            except Exception:  # whatever it is, the player may try something else
                traceback.print_exc()
                self.say("error", text="The server failed at this; its log says why.")

    def _pay(self, kind: str) -> None:
        """Nobody presses keys so fast: whoever floods the server is hung up on."""
        now = time.monotonic()
        earned = (now - self._allowance_time) * MESSAGES_PER_SEC
        self._allowance = min(MESSAGE_BURST, self._allowance + earned) - COSTS.get(kind, 1.0)
        self._allowance_time = now
        if self._allowance < 0:
            self.close("too many messages")
            raise WebSocketDisconnect

    async def _obey(self, message: dict) -> None:
        if not self.playing:
            return  # nothing is promised to those who wait
        orders: dict[str, Callable] = {
            "keys": self._take_keys,
            "start": self._start,
            "pause": lambda message: self.pause(parse_bool(message, "on")),
            "step": self._step,
            "speed": self._take_speed,
            "real": self._switch_real,
            "record": self._switch_recording,
        }
        order = orders.get(message["type"])
        if order is None:
            raise BadMessage(f"unknown type {message['type']!r:.40}")
        waiting = order(message)
        if waiting is not None:
            await waiting

    def _take_keys(self, message: dict) -> None:
        self.action = self._server.space.action_for_keys(parse_names(message, "held"))
        self.keys_number = parse_int(message, "number", 0, 2**53, 0)

    def _take_speed(self, message: dict) -> None:
        self._every = parse_int(message, "every", 1, SLOWEST, 1)

    def _step(self, message: dict) -> None:
        self._single_steps = min(self._single_steps + 1, 4)
        self._server.wake()

    def _take_image(self, pixels: bytes) -> None:
        self._image = image_prompt(pixels, self._server.config, self._server.space)
        self.say("image")

    def _where(self, message: dict) -> tuple[int, int]:
        """(record, moment) of a message."""
        gallery = self._server.gallery
        record_id = parse_int(message, "record", 0, len(gallery) - 1)
        if record_id is None:
            raise BadMessage("record is missing")
        last = gallery.num_frames(record_id) - 1
        return record_id, parse_int(message, "moment", 0, last, gallery.default_moment(record_id))

    async def _start(self, message: dict) -> None:
        server = self._server
        settings = RolloutSettings(
            num_steps=parse_int(message, "num_steps", 1, MOST_STEPS, server.num_steps),
            guidance=parse_float(message, "guidance", 0.0, MOST_GUIDANCE, 1.0),
        )
        seed = parse_int(message, "seed", 0, MAX_SEED)
        seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
        if message.get("record") is None:
            if self._image is None:
                raise BadMessage("no image has been sent")
            prompt = self._image
        else:
            prompt = await asyncio.to_thread(server.gallery.prompt, *self._where(message))
        why_not = await asyncio.to_thread(server.gallery.why_no_real_game, prompt)
        with_real = bool(message.get("real")) and why_not is None
        await self._forget_dream()
        self.dream = await self._begin(prompt, seed, settings)
        self.paused, self._single_steps = True, 0
        if with_real:
            await self._add_real_game()
        self.say(
            "started",
            seed=seed,
            num_steps=settings.num_steps,
            guidance=settings.guidance,
            record=prompt.record_id,
            moment=prompt.moment,
            last_moment=None if prompt.record_id is None else server.gallery.num_frames(prompt.record_id) - 1,
            prompt_frames=len(prompt.frames),
            why_no_real_game=why_not,
        )
        pictures = [prompt.frames[-1]]
        if self.dream.real:
            pictures.append(self.dream.real.frame)
        # In the outbox, so that it comes after "started".
        header = {"type": "frame", "frame": 0, "action": None, "keys": self.keys_number, "real_ended": False}
        self._post(with_pixels(header, pictures))

    async def _begin(self, prompt: Prompt, seed: int, settings: RolloutSettings) -> Rollout:
        """A dream of ours; ended again if the player hangs up meanwhile, as nobody else would know of it."""
        server = self._server
        starting = asyncio.ensure_future(server.on_model(server.dreams.start, prompt, seed, settings))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda it: server.background(server.on_model(server.dreams.end, it.result())))
            raise

    async def _switch_real(self, message: dict) -> None:
        if self.dream is None:
            return
        if parse_bool(message, "on"):
            await self._add_real_game()
        elif self.dream.real:
            self.dream.real, closed = None, self.dream.real
            await self._server.on_model(closed.close)
        self.say("real", on=self.dream.real is not None)

    async def _add_real_game(self) -> None:
        """Bring the real game to where the dream is: to the prompt by replay, then by the dream's actions."""
        dream = self.dream
        if dream.real is None:
            game = await asyncio.to_thread(self._server.gallery.real_game, dream.prompt)
            await self._server.on_model(game.catch_up, dream.actions)
            dream.real = game
            self._errors.clear()

    async def _switch_recording(self, message: dict) -> None:
        if not parse_bool(message, "on"):
            self._stop_recording()
        elif self.dream is not None and self._recording is None:
            if len(self.dream.actions) > MAX_REPLAY_FRAMES:
                raise ValueError("This dream has gone on for too long to be recorded: start a fresh one.")
            self._recording = Recording(self.dream)
            self.say("recording")

    def _stop_recording(self) -> None:
        self._recording, recording = None, self._recording
        if recording is not None:
            self._server.background(self._hand_over(recording))

    async def _hand_over(self, recording: Recording) -> None:
        """Write a recording's files, and say where they can be had."""
        files, note = {}, ""
        if recording.ticks:
            try:
                first, last = recording.ticks[0].place, recording.ticks[-1].place
                replay = Replay.of(recording.dream, first, last + 1, self._server.checkpoint_name)
                files["dream.json"] = replay.to_json().encode()
            except ValueError as error:
                note = str(error)
            files["dream.mp4"] = await self._server.encode(recording)
        place = self._server.keep_files(self, files)
        self.say("recorded", place=place, files=sorted(files), frames=len(recording.ticks), note=note)

    async def _forget_dream(self) -> None:
        self._stop_recording()
        self.dream, dream = None, self.dream
        self._errors.clear()
        if dream is not None:
            await self._server.on_model(self._server.dreams.end, dream)
            if dream.real:
                await self._server.on_model(dream.real.close)

    # What the browser is sent.

    def _post(self, message: str | bytes) -> None:
        self._outbox.append(message)
        self._news.set()

    async def _send(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._outbox:
                await self._send_one(self._outbox.popleft())
            if self._picture is not None:
                picture, self._picture = self._picture, None
                await self._send_one(picture)
            if self._closing is not None:
                return

    async def _send_one(self, message: str | bytes) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_SECS):
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(message)
