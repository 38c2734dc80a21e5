"""Checks, one after another in a process of their own: a check that hangs or crashes does not stop those after it."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from dreamrun.data.atomic import atomic_file

START_SECS = 60.0  # for a process to import torch, added to the time limit of its first check


class Measured(NamedTuple):
    """What a check has found."""

    passed: bool
    figure: str


class Check(NamedTuple):
    """One line of the table."""

    name: str
    limit: str  # what the figure must be, in words
    run: Callable[[Any], Measured]  # takes the options that all checks share; at the top level of a module
    secs: float = 60.0  # time limit


@dataclass(frozen=True)
class Line:
    """The result of one check."""

    name: str
    result: str  # PASS, FAIL, or "not run"
    figure: str
    limit: str
    secs: float


def run_checks(checks: list[Check], options: Any, minutes: float, start_secs: float = START_SECS) -> Iterator[Line]:
    """Run checks in order, each within its time limit and all within `minutes`; those left over are not run."""
    deadline = time.monotonic() + 60.0 * minutes
    worker: _Worker | None = None
    try:
        for check in checks:
            start = time.monotonic()
            left = deadline - start
            if left < 1.0:
                yield Line(check.name, "not run", "no time is left", check.limit, 0.0)
                continue
            starts = worker is None
            worker = worker or _Worker()
            answer = worker.ask(check, options, min(left, check.secs + (start_secs if starts else 0.0)))
            if answer is None or answer[2]:
                worker.stop()
                worker = None
            passed, figure, _ = answer or (False, f"stopped after {time.monotonic() - start:.0f} s", True)
            yield Line(check.name, "PASS" if passed else "FAIL", figure, check.limit, time.monotonic() - start)
    finally:
        if worker is not None:
            worker.stop()


class _Worker:
    """A process that runs checks. After an error it is replaced: CUDA may not work again in a process that saw one."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, check: Check, options: Any, secs: float) -> tuple[bool, str, bool] | None:
        """Whether it passed, its figure, and whether it raised an error; None after the time limit."""
        try:
            self._connection.send((check.run, options))
            return self._connection.recv() if self._connection.poll(secs) else None
        except (EOFError, OSError):
            self._process.join(5.0)
            return False, f"the process ended with code {self._process.exitcode}", True

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(connection: Connection) -> None:
    while True:
        try:
            run, options = connection.recv()
        except EOFError:
            return
        try:
            passed, figure = run(options)
            connection.send((bool(passed), figure, False))
        except Exception as error:
            first_line = (str(error).strip() or "no message").splitlines()[0]
            connection.send((False, f"{type(error).__name__}: {first_line:.200}", True))


def write_lines(folder: Path, title: str, lines: list[Line]) -> None:
    """Write checks.json, and checks.md with a table that goes into the documentation as it is."""
    rows = ["| check | result | figure | limit | s |", "|---|---|---|---|---|"]
    rows += [f"| {line.name} | {line.result} | {line.figure} | {line.limit} | {line.secs:.0f} |" for line in lines]
    for name, text in (
        ("checks.json", json.dumps({"title": title, "checks": [asdict(line) for line in lines]}, indent=2)),
        ("checks.md", "\n".join((title, "", *rows))),
    ):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text + "\n")
