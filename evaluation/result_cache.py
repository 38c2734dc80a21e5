"""Work that is done stays done: results beside the report, found again by whoever asks for the same."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import atomic_file

KEY = "[0-9a-f]{16}"


class ResultCache:
    """Results in a folder named after all that they follow from. What other settings left there is dropped.

    Args:
        root: beside the report.
        key: of settings, checkpoint, data and code: 16 hexadecimal digits.
    """

    def __init__(self, root: Path, key: str):
        self._folder = root / key
        for other in root.glob("*"):
            if other != self._folder and re.fullmatch(KEY, other.name):
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def values(self, name: str, make: Callable[[], Any]) -> tuple[Any, float]:
        """Plain values, and the seconds that it took to make them."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            begun = time.perf_counter()
            result = make()
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps({"secs": time.perf_counter() - begun, "result": result}))
        stored = json.loads(path.read_text())  # also when it is new: tuples have become lists, keys strings
        return stored["result"], stored["secs"]

    def array(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """A large intermediate result, read from disk as it is used."""
        path = self._folder / f"{name}.npy"
        if not path.is_file():
            result = make()
            with atomic_file(path) as temporary, temporary.open("wb") as file:  # by name, NumPy would add a suffix
                np.save(file, result)
        return np.load(path, mmap_mode="r")

    def drop_arrays(self) -> None:
        """All values are made: nobody needs the arrays any more."""
        for path in self._folder.glob("*.npy"):
            path.unlink()
