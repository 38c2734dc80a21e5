"""One websocket connection: messages in order, only the newest frame, and a limit on incoming messages."""

import asyncio
import contextlib
import json
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from dreamrun.play.messages import parse

MESSAGES_PER_SEC, MESSAGE_BURST = 100.0, 200.0  # far more than a person who presses keys sends
MESSAGE_COSTS = {"start": 20.0, "real": 20.0, "record": 20.0, "image": 20.0, "game": 20.0}  # other messages cost 1


class Connection:
    """Sends and receives on one websocket. All methods run on the event loop.

    A browser that takes no message for `send_secs` is disconnected.
    """

    def __init__(self, socket: WebSocket, send_secs: float):
        self.last_received = time.monotonic()
        self._send_secs = send_secs
        self._socket = socket
        self._outbox: deque[str | bytes] = deque()
        self._newest_frame: bytes | None = None
        self._something_to_send = asyncio.Event()
        self._close_reason: str | None = None
        self._budget, self._budget_time = MESSAGE_BURST, time.monotonic()

    async def run(self, handle: Callable[[dict | bytes], Awaitable[None]]) -> None:
        """Send and receive until either side closes the connection.

        `handle` gets each message, parsed, or the bytes of an image. A ValueError or OSError that it raises is sent to
        the browser.
        """
        sender, receiver = asyncio.create_task(self._send_all()), asyncio.create_task(self._receive_all(handle))
        try:
            done, _ = await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # Starlette raises RuntimeError for a socket that has just closed
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)
            if self._close_reason is not None:
                with contextlib.suppress(Exception):  # the socket may be closed already
                    async with asyncio.timeout(self._send_secs):
                        await self._socket.close(1008, self._close_reason)

    def send(self, message_type: str, **fields: Any) -> None:
        """Queue a JSON message."""
        self.send_raw(json.dumps({"type": message_type, **fields}))

    def send_raw(self, message: str | bytes) -> None:
        """Queue a packed message."""
        self._outbox.append(message)
        self._something_to_send.set()

    def send_frame(self, message: bytes) -> None:
        """Send a frame after all queued messages. It replaces an older frame that is not sent yet."""
        self._newest_frame = message
        self._something_to_send.set()

    def close(self, reason: str) -> None:
        """Close the connection after all queued messages."""
        self._close_reason = reason
        self._something_to_send.set()

    async def _send_all(self) -> None:
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._outbox:
                await self._send_one(self._outbox.popleft())
            if self._newest_frame is not None:
                frame, self._newest_frame = self._newest_frame, None
                await self._send_one(frame)
            if self._close_reason is not None:
                return

    async def _send_one(self, message: str | bytes) -> None:
        async with asyncio.timeout(self._send_secs):
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(message)

    async def _receive_all(self, handle: Callable[[dict | bytes], Awaitable[None]]) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            self.last_received = time.monotonic()
            try:
                image = received.get("bytes")
                message = parse(received.get("text") or "") if image is None else image
                self._limit_rate(message["type"] if image is None else "image")
                await handle(message)
            except (ValueError, OSError) as error:
                self.send("error", text=str(error))
            except WebSocketDisconnect:
                raise
            except Exception:  # the player may go on, whatever failed
                traceback.print_exc()
                self.send("error", text="The server failed to do this. The server's log shows why.")

    def _limit_rate(self, message_type: str) -> None:
        """Token bucket: close the connection of a browser that floods the server, by WebSocketDisconnect."""
        now = time.monotonic()
        refill = (now - self._budget_time) * MESSAGES_PER_SEC
        self._budget = min(MESSAGE_BURST, self._budget + refill) - MESSAGE_COSTS.get(message_type, 1.0)
        self._budget_time = now
        if self._budget < 0:
            self.close("too many messages")
            raise WebSocketDisconnect
