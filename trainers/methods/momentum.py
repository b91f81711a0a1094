"""Schedules of the teacher's momentum m, Eq. (1)."""

import math
from collections.abc import Callable
from typing import Any

from eman.trainers.spec.method import TeacherSection

#: From the method's section, the step and the number of steps to the momentum at that step.
MomentumSchedule = Callable[[Any, int, int], float]


def constant(section: TeacherSection, _step: int, _steps: int) -> float:
    """Return the same momentum at every step (FixMatch, MoCo)."""
    return section.momentum


def along_cosine(first: float, last: float, step: int, steps: int) -> float:
    """Return a momentum that moves from ``first`` to ``last`` along a cosine (BYOL)."""
    return last - (last - first) * (math.cos(math.pi * step / steps) + 1) / 2
