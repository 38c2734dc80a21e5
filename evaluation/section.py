"""A section of a report: how it is measured, and the blocks that show it.

`SECTIONS` in `evaluation/sections/__init__.py` lists all of them; one file of that folder holds everything about one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from dreamrun.evaluation.context import EvaluationContext


@dataclass(frozen=True)
class Section:
    """A part of report.json, and of report.md and report.html if it has a heading."""

    name: str  # key in report.json
    # The result as JSON can hold it. A ValueError says why it cannot be measured.
    measure: Callable[[EvaluationContext], Any]
    heading: str = ""
    blocks: Callable[[dict[str, Any]], Iterable[Block]] = lambda report: ()  # of the whole report.json, if measured
    # Rows of the table at the top, if measured: name, figure of the world model, what to compare it with.
    headlines: Callable[[dict[str, Any]], Iterable[list[str]]] = lambda report: ()
    sizes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # name in report.json: full size, quick size
    of_export: bool = False  # whether an exported network has it too


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    head: list[str]
    rows: list[list[str]]
    shades: list[list[float]] | None = None  # colour strength in [0, 1] of each cell of a row after the first


@dataclass(frozen=True)
class Picture:
    """A picture of report.html; report.md has no pictures."""

    kind: ClassVar[str] = "picture"
    caption: str
    source: str  # a data URI, or an <svg> element
    wide: bool = False

    @property
    def is_svg(self) -> bool:
        """Whether `source` is an <svg> element."""
        return self.source.startswith("<svg")


Block = Heading | Text | Table | Picture


def format_estimate(estimate: dict | None, digits: int, unit: str = "", factor: float = 1.0) -> str:
    """An estimate and its interval: "24.6 dB [22.5, 27.5]"; "-" if nothing was measured."""
    if estimate is None:
        return "-"
    value, low, high = (
        "∞" if estimate[part] is None else f"{factor * estimate[part]:.{digits}f}" for part in ("value", "low", "high")
    )
    return f"{value}{unit} [{low}, {high}]"


def format_percent(estimate: dict | None) -> str:
    """An estimate of a share as "64 % [52, 74]"."""
    return format_estimate(estimate, 0, " %", 100.0)


def split_interval(cell: str) -> tuple[str, str]:
    """Split "24.6 dB [22.5, 27.5]" into "24.6 dB" and "[22.5, 27.5]"; the interval of other text is empty."""
    value, bracket, interval = cell.partition(" [")
    is_estimate = bracket and interval.endswith("]") and "[" not in interval and "]" not in interval[:-1]
    return (value, f"[{interval}") if is_estimate else (cell, "")
