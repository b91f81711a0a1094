"""Schedules of the teacher's momentum m, Eq. (1)."""

import math
from collections.abc import Callable

#: From the specified momentum, the step and the number of steps to the momentum at that step.
MomentumSchedule = Callable[[float, int, int], float]


def constant(momentum: float, _step: int, _steps: int) -> float:
    """Return the same momentum at every step (FixMatch, MoCo)."""
    return momentum


def rising(momentum: float, step: int, steps: int) -> float:
    """Return BYOL's momentum, which rises from m to 1 along a cosine."""
    return 1 - (1 - momentum) * (math.cos(math.pi * step / steps) + 1) / 2
