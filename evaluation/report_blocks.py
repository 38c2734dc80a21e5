"""The parts that a report is made of, and how an estimate is written in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
