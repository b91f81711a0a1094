"""Schedules of the teacher's momentum m of Eq. (1)."""

import math
from collections.abc import Callable

#: Takes the momentum of the specification, the step and the number of steps; returns the momentum of that step.
MomentumSchedule = Callable[[float, int, int], float]


def constant(momentum: float, _step: int, _steps: int) -> float:
    """Return the same momentum at every step (FixMatch, MoCo)."""
    return momentum


def rising(momentum: float, step: int, steps: int) -> float:
    """Return BYOL's momentum: from m to 1 along a cosine over the run's steps."""
    return 1 - (1 - momentum) * (math.cos(math.pi * step / steps) + 1) / 2
