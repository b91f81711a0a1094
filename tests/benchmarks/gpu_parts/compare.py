"""Comparisons of two runs' states, losses and views."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relative(found: Array, wanted: Array) -> float:
    """Return the norm of the difference, divided by the norm of ``wanted`` (by 1 if that is 0)."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / (scale or 1.0)


def losses(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Return the largest relative difference between losses of the same step."""
    assert len(found) == len(wanted)
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))


def states(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """Return the relative difference of each network, the optimizer and the criterion, as one vector each.

    Raises:
        ValueError: The states hold different tensors, or integers differ.
    """
    if found.keys() != wanted.keys():
        raise ValueError(f"one state alone holds {sorted(found.keys() ^ wanted.keys())[:4]}")
    parts: dict[str, tuple[list[Array], list[Array]]] = {}
    for name, value in wanted.items():
        if value.dtype.kind in "iub":
            if not np.array_equal(found[name], value):
                raise ValueError(f"{name} is {found[name]}, not {value}")
            continue
        ours, theirs = parts.setdefault(name.partition(".")[0], ([], []))
        ours.append(found[name].ravel())
        theirs.append(value.ravel())
    return {part: relative(np.concatenate(a), np.concatenate(b)) for part, (a, b) in parts.items()}


def bitwise(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> list[str]:
    """Return the names of the tensors that are not equal to the bit."""
    names = found.keys() | wanted.keys()
    return sorted(
        name
        for name in names
        if name not in found or name not in wanted or found[name].tobytes() != wanted[name].tobytes()
    )


def views(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest difference between views, and the share of values that differ by more than 0.001."""
    gaps = [np.abs(found[name].astype(np.float64) - value).ravel() for name, value in wanted.items()]
    together = np.concatenate(gaps)
    return {"views_max": float(together.max()), "views_differ": float((together > 1e-3).mean())}
