"""Clocks of the GPU benchmark: CUDA events on a GPU, `time.perf_counter` on a CPU."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch


def on_gpu() -> bool:
    """Return whether there is a GPU."""
    return torch.cuda.is_available()


def synchronize() -> None:
    """Wait until the GPU has finished all its work."""
    if on_gpu():
        torch.cuda.synchronize()


def step_seconds(step: Callable[[], Any], count: int, *, warmup: int, most: float = 60.0) -> list[float]:
    """Return the time of each of ``count`` steps, which follow each other without a pause.

    On a GPU these are the times between events at the ends of steps, so a GPU that waits for its host counts too.

    Args:
        step: Takes one step.
        count: Number of steps to time; fewer if they take longer than ``most`` seconds.
        warmup: Steps before these.
        most: Seconds after which no further step starts.
    """
    for _ in range(warmup):
        step()
    synchronize()
    started = time.perf_counter()
    if not on_gpu():
        marks = [started]
        while len(marks) <= count and time.perf_counter() - started < most:
            step()
            marks.append(time.perf_counter())
        return [after - before for before, after in pairwise(marks)]
    events = [_mark()]
    while len(events) <= count and time.perf_counter() - started < most:
        step()
        events.append(_mark())
    synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def summary(seconds: list[float]) -> dict[str, Any]:
    """Return the median, the quartiles and the number of times, in milliseconds."""
    ordered = sorted(1e3 * value for value in seconds)
    return {
        "ms": round(statistics.median(ordered), 4),
        "ms_quartiles": [round(ordered[len(ordered) // 4], 4), round(ordered[(3 * len(ordered)) // 4], 4)],
        "steps": len(ordered),
    }
