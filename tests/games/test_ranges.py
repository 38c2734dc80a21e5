"""Declared ranges: what an option class accepts, and what it says of other values."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from dreamrun.games.ranges import Positive, Range, Share, check_ranges, ranges_of


@dataclass(frozen=True)
class Options:
    frames: Positive = 1
    share: Share | None = None
    strength: Annotated[float, Range(0.0, 9.0, 2.0)] = 1.0
    sizes: tuple[Annotated[int, Range(2, 8)], ...] = (2, 8)
    name: str = ""

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class Resolved(Options):
    share: float = 0.5  # no None, in the same range


def test_values_in_range_are_accepted():
    Options(frames=10**12, share=1, strength=9)
    Resolved(share=0.0)
    assert ranges_of(Resolved).keys() == {"frames", "share", "strength", "sizes"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Options, {"frames": 0}, "^frames is 0: expected an integer of at least 1$"),
        (Options, {"frames": 1.5}, "^frames is 1.5: expected an integer"),
        (Options, {"frames": True}, "^frames is True: expected an integer"),
        (Options, {"frames": None}, "^frames is None: expected an integer"),
        (Options, {"share": 1.01}, r"^share is 1.01: expected a number from 0.0 to 1.0$"),
        (Options, {"strength": float("nan")}, "^strength is nan"),
        (Options, {"sizes": (3, 9)}, "^sizes is 9: expected an integer from 2 to 8$"),
        (Resolved, {"share": 2.0}, "^share is 2.0"),
        (Resolved, {"share": None}, "^share is None"),
    ],
)
def test_values_out_of_range_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_in_play_the_limit_is_lower():
    check_ranges(Options(strength=2.0), in_play=True)
    with pytest.raises(ValueError, match=r"strength is 3.0: expected a number from 0.0 to 2.0"):
        check_ranges(Options(strength=3.0), in_play=True)
