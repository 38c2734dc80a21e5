"""Ranges of numbers, declared where an option is: `num_steps: Annotated[int, Range(1, 1000)] = 10`."""

import math
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


class Range(NamedTuple):
    """Least and largest value of a number. Those of an integer are ints, and allow no other numbers."""

    low: float
    high: float = math.inf
    high_in_play: float = math.inf  # the largest value that a player of a server may ask for

    def check(self, name: str, value: Any, in_play: bool = False) -> None:
        """Raises ValueError unless a value is a number in the range."""
        types = (int,) if isinstance(self.low, int) else (int, float)
        high = min(self.high, self.high_in_play) if in_play else self.high
        if type(value) not in types or not self.low <= value <= high:  # false for NaN
            kind = "an integer" if types == (int,) else "a number"
            limits = f"of at least {self.low}" if high == math.inf else f"from {self.low} to {high}"
            raise ValueError(f"{name} is {value!r:.40}: expected {kind} {limits}")


Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Share = Annotated[float, Range(0.0, 1.0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]


@cache
def ranges_of(options: type) -> dict[str, Range]:
    """Field -> its range, of a class and of those that it inherits from."""
    found = {}
    for base in reversed(options.__mro__):  # a class may narrow the type of a field, such as to one without None
        for name, hint in get_type_hints(base, include_extras=True).items():
            for part in (part for kind in (hint, *get_args(hint)) for part in getattr(kind, "__metadata__", ())):
                if isinstance(part, Range):
                    found[name] = part
    return found


_type_hints = cache(get_type_hints)


def check_ranges(options: object, in_play: bool = False) -> None:
    """Raises ValueError for a field of `options` that is out of its range. It may be None if its type says so.

    Of a tuple each part is checked.
    """
    hints = _type_hints(type(options))
    for name, allowed in ranges_of(type(options)).items():
        value = getattr(options, name)
        if value is not None or NoneType not in get_args(hints[name]):
            for part in value if isinstance(value, tuple) else (value,):
                allowed.check(name, part, in_play)
