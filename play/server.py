"""The places of players with a waiting list, and the websocket route that Gradio's server gets."""

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket

from dreamrun.play.connection import Connection
from dreamrun.play.engine import Engine
from dreamrun.play.player import Player
from dreamrun.play.security import Limits

CONNECTIONS_PER_BROWSER = 8
FILE_SECS = 3600.0  # how long uploads and recordings are kept
MAX_FILES_BYTES = 512 * 2**20  # of all uploads and recordings together
CLEAN_SECS = 30.0  # interval at which files are deleted


class PlayServer:
    """`max_players` places, and the websocket route. Further players wait.

    Args:
        engines: by the name of their game; players begin with the first.
        folder: Gradio's folder for uploads and downloads. Old files in it are deleted.
    """

    def __init__(self, engines: dict[str, Engine], max_players: int, folder: Path, limits: Limits):
        self.engines, self.max_players, self.folder, self.limits = engines, max_players, folder, limits
        self.engine = next(iter(engines.values()))
        self.server_id = secrets.token_urlsafe(8)  # a page of an older server notices that it must reload
        self._players: list[Player] = []  # as they came: the first ones have a place, the others wait
        self._idle_message = "Paused: you have not pressed a key for a while. Press one to continue."
        if self.engine.space.unconditional:
            self._idle_message = "Paused: your browser has sent nothing for a while."

    @property
    def max_connections(self) -> int:
        """Connections of all players and of those who wait, and some more for programs."""
        return CONNECTIONS_PER_BROWSER * (self.max_players + self.limits.max_waiting) + 64

    def recorded_files(self, recording_id: str) -> dict[str, bytes]:
        """The files of a player's newest recording, by name. Empty if its player has left, or has recorded again."""
        for player in self._players:
            if player.recording_id is not None and secrets.compare_digest(player.recording_id, recording_id):
                return player.recorded_files
        return {}

    def new_file(self, name: str, content: bytes) -> Path:
        """Write a file that Gradio serves to those who know its path, for `FILE_SECS`."""
        path = Path(tempfile.mkdtemp(dir=self.folder)) / name
        path.write_bytes(content)
        return path

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """What runs as long as Gradio's application."""
        async with contextlib.AsyncExitStack() as stack:
            for engine in self.engines.values():
                await stack.enter_async_context(engine.running())
            self.engine.run_in_background(self._check_idle_players())
            self.engine.run_in_background(self._delete_old_files())
            yield

    async def _delete_old_files(self) -> None:
        page_files = set(self.folder.rglob("*"))  # such as the pictures of the gallery
        while True:
            await asyncio.sleep(CLEAN_SECS)
            await asyncio.to_thread(delete_old_files, self.folder, page_files)

    async def serve_player(self, socket: WebSocket) -> None:
        """The websocket route."""
        await socket.accept()
        ahead = len(self._players) - self.max_players
        if ahead >= self.limits.max_waiting:
            await socket.close(1013, "too many players are waiting")
            return
        connection = Connection(socket, self.limits.send_secs)
        player = Player(self.engines, connection, self.server_id, self.limits.recording_frames)
        self._players.append(player)
        if ahead < 0:
            player.admit()
        else:
            connection.send("wait", ahead=ahead)
        try:
            await connection.run(player.handle)
        finally:
            self._players.remove(player)
            player.leave()
            for next_player in self._players[: self.max_players]:
                if not next_player.admitted:
                    next_player.admit()
            for ahead, waiting in enumerate(self._players[self.max_players :]):
                waiting.connection.send("wait", ahead=ahead)

    async def _check_idle_players(self) -> None:
        """Pause idle rollouts, and give the places of idle players to those who wait."""
        while True:
            await asyncio.sleep(1.0)
            for player in self._players[: self.max_players]:
                if player.playback.active and player.idle_secs > self.limits.idle_secs:
                    player.playback.pause(True, self._idle_message)
                if len(self._players) > self.max_players and player.idle_secs > self.limits.release_secs:
                    player.connection.close("another player was waiting for your place")


def delete_old_files(folder: Path, keep: set[Path], max_bytes: int = MAX_FILES_BYTES) -> None:
    """Delete files older than `FILE_SECS`, and the oldest ones while all together are larger than `max_bytes`."""
    found = [(path.stat(), path) for path in folder.rglob("*") if path.is_file() and path not in keep]
    total = sum(info.st_size for info, _ in found)
    for info, path in sorted(found, key=lambda item: item[0].st_mtime):
        if total <= max_bytes and time.time() - info.st_mtime < FILE_SECS:
            return
        total -= info.st_size
        path.unlink()
        with contextlib.suppress(OSError):  # other files are in the same folder
            path.parent.rmdir()
