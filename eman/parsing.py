"""Parse command-line arguments."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eman.platform.errors import UserError

if TYPE_CHECKING:
    from eman.sweeps.search.space import Range
    from eman.trainers.spec.kinds import Value

#: A number of workers, a range within which Ray may vary it, or `auto`.
Workers = int | tuple[int, int] | str | None

MAX_WORKERS = 4096


def parse_list(flag: str, text: str | None) -> list[str]:
    """Return the parts of `a,b,c`; none without the option."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UserError(f"{flag} {text!r}: give names separated by commas, for example {flag} a,b.")
    return parts


def parse_rates(flag: str, text: str | None, samples: int = 0, seed: int | None = None) -> "list[Value]":
    """Return the numbers of `15,30,60`, or `samples` of `0.1:10:log`: drawn from a seed, else evenly spaced."""
    if text is not None and ":" in text:
        from eman.sweeps.search.space import axis, parse_range, random_points
        from eman.trainers.spec.kinds import FieldKind

        rates = parse_range(flag.removeprefix("--"), text, FieldKind(float))
        if not samples:
            raise UserError(f"{flag} {text}: give --samples, the number of rates to take of this range.")
        return axis(rates, samples) if seed is None else [p[flag] for p in random_points({flag: rates}, samples, seed)]
    try:
        return [float(part) for part in parse_list(flag, text)]
    except ValueError:
        raise UserError(f"{flag} {text}: give numbers separated by commas, for example {flag} 15,30,60.") from None


def parse_seeds(text: str) -> int | list[int]:
    """Return a number of seeds (`3`) or a list of them (`0,1,5`, or `5,` for seed 5 alone)."""
    parts = text.split(",")
    if "," in text and parts[-1] == "":
        parts.pop()
    if not all(part.strip().isdecimal() and part.strip().isascii() and len(part) <= 20 for part in parts):
        raise UserError(f"--seeds {text}: give a number of seeds, such as 3, or a list of seeds, such as 0,1,5.")
    numbers = [int(part) for part in parts]
    return numbers if "," in text else numbers[0]


def parse_grid(axes: Sequence[str] | None) -> "dict[str, tuple[Value, ...]]":
    """Return the axes of `FIELD=VALUE,VALUE`."""
    from eman.trainers.spec.fields import find_field

    grid: dict[str, tuple[Value, ...]] = {}
    for axis in axes or []:
        given, equals, values = axis.partition("=")
        if not equals or not given or not all(values.split(",")):
            raise UserError(f"--grid {axis!r}: give FIELD=VALUE,VALUE, for example --grid lr=0.1,0.3.")
        name, kind = find_field(given.strip())
        if name in grid:
            raise UserError(f"--grid {name} is given twice; give all its values at once.")
        grid[name] = tuple(dict.fromkeys(kind.parse(name, value) for value in values.split(",")))
    return grid


def parse_ranges(axes: Sequence[str] | None) -> "dict[str, Range]":
    """Return the ranges of `FIELD=LOW:HIGH:SCALE`."""
    from eman.sweeps.search.space import parse_range
    from eman.trainers.spec.fields import find_field

    ranges: dict[str, Range] = {}
    for axis in axes or []:
        given, equals, text = axis.partition("=")
        if not equals or not given:
            raise UserError(f"--range {axis!r}: give FIELD=LOW:HIGH[:SCALE], for example --range lr=0.01:1:log.")
        name, kind = find_field(given.strip())
        if name in ranges:
            raise UserError(f"--range {name} is given twice; give one range.")
        ranges[name] = parse_range(name, text, kind)
    return ranges


def parse_tags(words: Sequence[str] | None) -> dict[str, str]:
    """Return the tags of `NAME=VALUE` words."""
    tags = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (equals and re.fullmatch(r"[\w./ -]{1,100}", name) and 0 < len(value) <= 1000 and value.isprintable()):
            raise UserError(f"--tag {word!r}: give NAME=VALUE, for example --tag project=norms.")
        if name.startswith(("eman.", "mlflow.")):
            raise UserError(f"--tag {word!r}: names with eman. and mlflow. are taken; give another.")
        tags[name] = value
    return tags


def parse_workers(text: str | None) -> Workers:
    """Return `4`, `1-4` or `auto` as a number, a pair or the word."""
    if text is None or text == "auto":
        return text
    parts = text.split("-")
    numbers = [int(part) if part.isdecimal() and part.isascii() and len(part) < 9 else 0 for part in parts]
    if all(1 <= number <= MAX_WORKERS for number in numbers):
        if len(numbers) == 1:
            return numbers[0]
        if len(numbers) == 2 and numbers[0] <= numbers[1]:
            return numbers[0], numbers[1]
    raise UserError(f"--workers {text}: give a number from 1, a range such as 1-4, or auto.")


def check_number(flag: str, value: float | None, least: float, most: float, *, above: bool = False) -> None:
    """Raise `UserError` unless a number, if given, is within bounds. `above` excludes the lower bound."""
    if value is None or (least <= value <= most and not (above and value == least)):
        return
    raise UserError(f"{flag} {value:g}: give a number {'above' if above else 'from'} {least:g} to {most:g}.")
