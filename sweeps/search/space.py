"""Ranges of numbers, and the points of a search.

Points are functions of the request alone, so that the same command gives the same runs. A random point is drawn from
the search's seed, its number and the field's name: more samples add points and keep the others, and fields that other
methods lack change nothing.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

from pydantic import model_validator

from eman.platform.errors import UserError
from eman.trainers.spec.kinds import FieldKind, Value
from eman.trainers.spec.section import Section

Scale = Literal["linear", "log", "logit"]
SCALES: tuple[Scale, ...] = ("linear", "log", "logit")

#: Significant digits of a drawn value, or of its distance from 1 if that is smaller: enough to search, and readable.
_DIGITS = 3


class Range(Section):
    """Numbers from `low` to `high`, both included.

    Attributes:
        scale: Spacing: `linear`; `log` for rates; `logit` for momenta and other shares near 0 or 1.
        whole: Whether only whole numbers belong to it.

    Raises:
        UserError: The range is empty, or does not fit its scale.
    """

    low: float
    high: float
    scale: Scale = "linear"
    whole: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise UserError(f"range {self.text}: give a lower end below the upper one.")
        if self.scale == "log" and self.low <= 0:
            raise UserError(f"range {self.text}: scale log needs numbers above 0.")
        if self.scale == "logit" and not (self.low > 0 and self.high < 1 and not self.whole):
            raise UserError(f"range {self.text}: scale logit needs fractions above 0 and below 1.")
        return self

    @property
    def text(self) -> str:
        """The range as it is written on the command line."""
        scale = "" if self.scale == "linear" else f":{self.scale}"
        return f"{_text(self.low)}:{_text(self.high)}{scale}"

    def at(self, share: float) -> int | float:
        """Return the number at a fraction `share` (0 to 1) of the way from `low` to `high`, on the range's scale."""
        if self.whole and self.scale == "linear":
            return int(min(self.low + math.floor(share * (self.high - self.low + 1)), self.high))
        low, high = self.scaled(self.low), self.scaled(self.high)
        return self.rounded(self.unscaled(low + share * (high - low)))

    def scaled(self, value: float) -> float:
        """Return a number's place on the scale."""
        match self.scale:
            case "log":
                return math.log(value)
            case "logit":
                return math.log(value / (1 - value))
            case "linear":
                return value

    def unscaled(self, place: float) -> float:
        """Invert :meth:`scaled`."""
        match self.scale:
            case "log":
                return math.exp(place)
            case "logit":
                return 1 / (1 + math.exp(-place))
            case "linear":
                return place

    def rounded(self, value: float) -> int | float:
        """Return the nearest number of the range with three significant digits."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        near_one = self.scale == "logit" and value > 0.5
        size = 1 - value if near_one else abs(value)
        places = _DIGITS - 1 - (math.floor(math.log10(size)) if size else 0)
        return min(max(round(value, places), self.low), self.high)


def parse_range(name: str, text: str, kind: FieldKind) -> Range:
    """Return the range that `LOW:HIGH` or `LOW:HIGH:SCALE` names, for a field that holds one number.

    Raises:
        UserError: It is malformed, or the field holds no number.
    """
    example = f"for example --range {name}=0.01:1:log"
    if kind.base not in (int, float):
        raise UserError(f"--range {name}: this field is {kind.describe()}; list its values with --grid {name}=...")
    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or (len(parts) == 3 and parts[2] not in SCALES):
        raise UserError(f"--range {name}={text}: give LOW:HIGH or LOW:HIGH:SCALE with {', '.join(SCALES)}, {example}.")
    low, high = (kind.parse(name, part) for part in parts[:2])
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise UserError(f"--range {name}={text}: give two numbers, {example}.")
    scale: Scale = next((known for known in SCALES if parts[2:] == [known]), "linear")
    return Range(low=float(low), high=float(high), scale=scale, whole=kind.base is int)


def axis(values: Sequence[Value] | Range, samples: int) -> list[Value]:
    """Return the values of a field in a grid: a list's own, or `samples` evenly spaced ones of a range."""
    if not isinstance(values, Range):
        return list(values)
    return list(dict.fromkeys(values.at(number / max(samples - 1, 1)) for number in range(samples)))


def grid_points(axes: Mapping[str, Sequence[Value] | Range], samples: int) -> Iterator[dict[str, Value]]:
    """Yield every combination of the values of some fields."""
    for point in itertools.product(*(axis(values, samples) for values in axes.values())):
        yield dict(zip(axes, point, strict=True))


def random_points(axes: Mapping[str, Sequence[Value] | Range], samples: int, seed: int) -> Iterator[dict[str, Value]]:
    """Yield `samples` points, each field drawn on its own: uniformly on a range's scale, or from a list."""
    for number in range(samples):
        yield {name: _drawn(values, random.Random(f"{seed}/{number}/{name}")) for name, values in axes.items()}  # noqa: S311


def _drawn(values: Sequence[Value] | Range, source: random.Random) -> Value:
    return values.at(source.random()) if isinstance(values, Range) else values[int(source.random() * len(values))]


def _text(number: float) -> str:
    return repr(int(number)) if number.is_integer() else repr(number)
