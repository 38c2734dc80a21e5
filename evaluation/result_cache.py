"""A cache of results on disk, so that an interrupted evaluation continues where it stopped."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dreamrun.data.atomic import atomic_file

KEY_PATTERN = "[0-9a-f]{16}"


class ResultCache:
    """Results in the folder `root/key`. Creating a cache deletes the folders of other keys in `root`.

    Args:
        root: folder of the cache, beside the report.
        key: 16 hexadecimal digits, a hash of everything that the results depend on.
    """

    def __init__(self, root: Path, key: str):
        self.secs: dict[str, float] = {}  # seconds that measuring each value took
        self._folder = root / key
        for other in root.glob("*"):
            if other != self._folder and re.fullmatch(KEY_PATTERN, other.name):
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result that JSON can hold, computed if it is not cached."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            start = time.perf_counter()
            result = compute()
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps({"secs": time.perf_counter() - start, "result": result}))
        # A new result is read back too: JSON turns tuples into lists and all keys into strings.
        stored = json.loads(path.read_text())
        self.secs[name] = stored["secs"]
        return stored["result"]

    def array(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """A large array, computed if it is not cached, and memory-mapped from disk."""
        path = self._folder / f"{name}.npy"
        if not path.is_file():
            result = compute()
            # np.save adds a suffix to a file name, but not to an open file.
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, result)
        return np.load(path, mmap_mode="r")

    def drop_arrays(self) -> None:
        """Delete the arrays, once every result that needs them is cached."""
        for path in self._folder.glob("*.npy"):
            path.unlink()
