"""A lock on a run folder: two trainings that write into one folder would mix their metrics and checkpoints."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK_FILE = "lock.json"
HEARTBEAT_SECS = 15.0  # the owner touches the file so often
STALE_SECS = 120.0  # without a heartbeat, an owner on another machine is taken for gone


class RunLock:
    """While this context is open, no other training can open it for the same folder.

    A lock is taken over when its owner is gone: a process of this machine that has ended; an earlier attempt of the
    same torchrun job; or a process elsewhere whose heartbeat has stopped.

    Raises:
        ValueError: another training uses the folder.
        OSError: the folder cannot be written to.
    """

    def __init__(self, run_folder: Path):
        self._folder, self._path = run_folder, run_folder / LOCK_FILE
        self._content = _this_process() | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._stop = threading.Event()

    def __enter__(self) -> RunLock:
        self._is_new = not self._folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self._folder):
            while not self._create():
                self._remove_if_owner_is_gone()
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if _read(self._path) == self._content:
            self._path.unlink(missing_ok=True)
        if self._is_new:
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # if nothing was written: the training ended with an error

    def _create(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(self._content) + "\n")
        except OSError:  # the disk is full
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _remove_if_owner_is_gone(self) -> None:
        owner = _read(self._path)
        if not owner:  # perhaps created a moment ago, and not written yet
            time.sleep(0.5)
            owner = _read(self._path)
        if self._path.exists() and _is_alive(owner, self._path):
            raise ValueError(
                f"{self._folder} is in use by another training, process {owner.get('process')} on {owner.get('host')} "
                f"since {owner.get('since')}: wait for its end, or choose another --out"
            )
        if _read(self._path) == owner:  # nobody else has taken it over
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECS):
            with contextlib.suppress(OSError):
                os.utime(self._path)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let processes that want the same lock come one after another, where the file system knows flock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # this releases it


def _this_process() -> dict[str, Any]:
    """What identifies a process: the machine since its start, the process, and the job of torchrun, if any."""
    return {
        "host": socket.gethostname(),
        "machine": [_read_text("/proc/sys/kernel/random/boot_id"), _process_namespace()],
        "process": os.getpid(),
        "started": _start_time(os.getpid()),
        "torchrun": os.environ.get("TORCHELASTIC_RUN_ID", "none"),
    }


def _is_alive(owner: dict[str, Any], path: Path) -> bool:
    """Whether the owner of a lock still runs. It may wait for a heartbeat of an owner on another machine."""
    here = _this_process()
    if owner.get("machine") == here["machine"] and owner.get("host") == here["host"]:
        started = _start_time(owner.get("process"))
        return started is not None and started == owner.get("started")
    if here["torchrun"] != "none" and owner.get("torchrun") == here["torchrun"]:
        return False  # torchrun ends all processes of an attempt before it starts the next
    return _has_heartbeat(path)


def _has_heartbeat(path: Path) -> bool:
    """Watch a lock file until its time changes (true), it disappears, or its time is STALE_SECS old (false)."""
    is_waiting_announced = False
    with contextlib.suppress(FileNotFoundError):
        first = path.stat().st_mtime
        # Waiting counts by itself too: the clocks of machines may differ.
        deadline = time.monotonic() + STALE_SECS
        while time.time() - first < STALE_SECS and time.monotonic() < deadline:
            if not is_waiting_announced:
                message = (
                    f"waiting up to {STALE_SECS:.0f} s to see whether another machine still trains in {path.parent}"
                )
                print(message, file=sys.stderr)
                is_waiting_announced = True
            time.sleep(min(1.0, HEARTBEAT_SECS / 4))
            if path.stat().st_mtime != first:
                return True
    return False


def _start_time(process: Any) -> str | None:
    """When a process of this machine started, in clock ticks since the machine did; None if it has ended."""
    status = _read_text(f"/proc/{process}/stat")
    fields = status.rpartition(")")[2].split()  # the name before it may hold spaces
    is_running = len(fields) > 19 and fields[0] not in "ZX"  # a zombie has ended
    return fields[19] if is_running else None


def _process_namespace() -> str:
    """Containers number their processes by themselves."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _read_text(path: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        return Path(path).read_text().strip()
    return ""


def _read(path: Path) -> dict[str, Any]:
    """The content of a lock file; {} if it is gone or damaged."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
    return {}
