"""A lock on a run folder: two trainings that write into one folder would mix their metrics and checkpoints."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = "lock"


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """While this context is open, no other process can open it for the same folder.

    The operating system frees the lock when the process ends, also after kill -9. A folder that is new and still empty
    at the end is removed: the training ended with an error.

    Raises:
        OSError: the folder cannot be written to.
    """
    is_new, path = not folder.exists(), folder / LOCK_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes()[:8] not in (b"", b"process "):
        raise ValueError(f"{path} is a file of yours, which would be deleted: choose another --out")
    with path.open("a+") as file:
        if not _take(file.fileno(), path):
            raise ValueError(
                f"{folder} is in use by another training, {path.read_text().strip() if path.exists() else ''}: "
                "wait for its end, or choose another --out"
                + ("; srun has started several: let it start torchrun" if "SLURM_PROCID" in os.environ else "")
            )
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):
                    folder.rmdir()


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())  # false: its owner has just ended and removed it
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # some network file systems know no locks
        return True
