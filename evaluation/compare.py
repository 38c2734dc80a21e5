"""Two reports side by side: what differs by more than chance would have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Without these being equal, the reports judge by other things.
_SAME = ("data", "settings")
_LEFT_OUT = ("timings", "checkpoint", *_SAME)


def compare_reports(first: Path, second: Path) -> str:
    """The figures whose 95 % intervals do not meet, a line each; and how many there are in both.

    Raises:
        ValueError: not a report, or nothing that is in both.
    """
    one, other = (read_report(path) for path in (first, second))
    lines = [f"first: {first}", f"second: {second}"]
    for name in _SAME:
        for key in sorted(one[name].keys() | other[name].keys()):
            values = one[name].get(key), other[name].get(key)
            if values[0] != values[1]:
                lines.append(f"note: {name}, {key}: {values[0]} in the first, {values[1]} in the second")
    ours, theirs = (
        dict(figures({name: section for name, section in report.items() if name not in _LEFT_OUT}))
        for report in (one, other)
    )
    both = [name for name in ours if name in theirs]
    if not both:
        raise ValueError(f"{first} and {second} have no figure in common")
    differing = [name for name in both if _apart(ours[name], theirs[name])]
    lines += [f"{name}: {_show(ours[name])} -> {_show(theirs[name])}" for name in differing]
    lines.append(f"{len(differing)} of {len(both)} figures differ beyond their 95 % intervals")
    return "\n".join(lines)


def read_report(path: Path) -> dict[str, Any]:
    """A report.json.

    Raises:
        ValueError: there is none, or it is something else.
    """
    if path.is_dir():
        path = path / "report.json"
    try:
        report = json.loads(path.read_text())
        if {"checkpoint", *_SAME} <= report.keys():
            return report
    except OSError as error:
        raise ValueError(f"no report at {path}: {error.strerror}") from None
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is not a report.json of scripts.evaluate")


def figures(report: Any, name: str = "") -> Iterator[tuple[str, dict]]:
    """Every estimate in a report, with where it stands: `fidelity dream psnr 16`."""
    if isinstance(report, dict) and {"value", "low", "high", "n"} <= report.keys():
        yield name, report
    elif isinstance(report, dict):
        for key, part in report.items():
            yield from figures(part, f"{name} {key}".strip())
    elif isinstance(report, list):
        for number, part in enumerate(report, start=1):
            yield from figures(part, f"{name} {_label(part, number)}")


def _label(part: Any, number: int) -> str:
    """Of an item in a list: what tells it apart, or its place."""
    if isinstance(part, dict):
        told = [f"{key} {part[key]}" for key in ("frame", "num_steps", "guidance", "context_noise") if key in part]
        return " ".join(told) or str(number)
    return str(number)


def _apart(one: dict, other: dict) -> bool:
    low, high = ([_or_infinite(e[part]) for e in (one, other)] for part in ("low", "high"))
    return high[0] < low[1] or high[1] < low[0]


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value


def _show(estimate: dict) -> str:
    value, low, high = (f"{_or_infinite(estimate[part]):.4g}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
