"""Compare two reports: list the figures that differ by more than chance."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamrun.games.untrusted import printable

# If these differ, the reports did not measure the same thing.
_CONDITIONS = ("data", "settings")
_IGNORED = ("timings", "checkpoint", *_CONDITIONS)
_REPORT_KEYS = {"checkpoint", *_CONDITIONS}


def compare_reports(first: Path, second: Path) -> str:
    """One line for each figure whose 95 % intervals do not overlap, and a line with their number."""
    reports = read_report(first), read_report(second)
    lines = [f"first: {first}", f"second: {second}", *_condition_notes(*reports)]
    first_figures, second_figures = (
        dict(figures({name: section for name, section in report.items() if name not in _IGNORED})) for report in reports
    )
    common = [name for name in first_figures if name in second_figures]
    if not common:
        raise ValueError(f"{first} and {second} have no figure in common")
    differing = [name for name in common if not _overlap(first_figures[name], second_figures[name])]
    lines += [f"{name}: {_format(first_figures[name])} -> {_format(second_figures[name])}" for name in differing]
    lines.append(f"{len(differing)} of {len(common)} figures have 95 % intervals that do not overlap")
    return "\n".join(map(printable, lines))  # names and values are from files


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json, given the file or its folder. Keys of older reports get their current names."""
    if path.is_dir():
        path = path / "report.json"
    try:
        report = json.loads(path.read_text(), object_hook=_rename_old_keys)
        if report.keys() >= _REPORT_KEYS and all(isinstance(report[name], dict) for name in _CONDITIONS):
            return report
    except OSError as error:
        raise ValueError(f"no report at {path}: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):  # it is not JSON, not an object, or nested too deeply
        pass
    raise ValueError(f"{path} is not a report.json of scripts.evaluate")


def _rename_old_keys(values: dict[str, Any]) -> dict[str, Any]:
    """The current names of keys that were called otherwise in older reports."""
    names = {"drift_dreams": "num_long_rollouts", "reader_steps": "inverse_dynamics_steps"}
    # Obedience also stands with a frame number: "obedience_4".
    return {names.get(name, re.sub("^obedience", "controllability", name)): value for name, value in values.items()}


def figures(report: Any, name: str = "") -> Iterator[tuple[str, dict]]:
    """All estimates in a report, each with its path as a name: `fidelity dream psnr 16`."""
    if isinstance(report, dict) and {"value", "low", "high", "n"} <= report.keys():
        yield name, report
    elif isinstance(report, dict):
        for key, part in report.items():
            yield from figures(part, f"{name} {key}".strip())
    elif isinstance(report, list):
        for number, part in enumerate(report, start=1):
            yield from figures(part, f"{name} {_item_label(part, number)}")


def _item_label(item: Any, number: int) -> str:
    """The settings that identify an item of a list, or else its number."""
    names = ("frame", "num_steps", "guidance", "context_noise") if isinstance(item, dict) else ()
    return " ".join(f"{name} {item[name]}" for name in names if name in item) or str(number)


def _condition_notes(first: dict, second: dict) -> Iterator[str]:
    for name in _CONDITIONS:
        for key in sorted(first[name].keys() | second[name].keys()):
            values = first[name].get(key), second[name].get(key)
            if values[0] != values[1]:
                yield f"note: {name}, {key}: {values[0]} in the first, {values[1]} in the second"


def _overlap(first: dict, second: dict) -> bool:
    return _number(first["low"]) <= _number(second["high"]) and _number(second["low"]) <= _number(first["high"])


def _number(value: float | None) -> float:
    """None stands for infinity: JSON has no infinity."""
    return float("inf") if value is None else value


def _format(estimate: dict) -> str:
    value, low, high = (f"{_number(estimate[part]):.4g}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
