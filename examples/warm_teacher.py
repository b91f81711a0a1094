r"""A scheme with a rule of its own for the teacher's statistics: EMAN whose momentum warms up.

.. math:: \mu' := m_t \mu' + (1 - m_t) \mu, \quad m_t = \min\left(m, \frac{1 + t}{10 + t}\right)

where t counts the steps before this one. Early on the teacher follows closely; later this is Eq. (9).

Shapes: C channels.
"""

import torch
from torch import Tensor

from eman.api import Scheme, StatisticsRule, TeacherNorm, register_scheme, register_teacher_norm


class WarmUp(StatisticsRule):
    """Average with a momentum that rises to m."""

    steps: Tensor

    def __init__(self, statistics: list[Tensor]) -> None:
        super().__init__(statistics)
        self.register_buffer("steps", torch.zeros(()))  # a buffer, so that a resumed run has it

    def move(self, teacher: list[Tensor], student: list[Tensor], momentum: float | Tensor) -> None:
        """Move the teacher's means and variances, ``(C,)`` each, without reading a tensor on the host."""
        m = ((1 + self.steps) / (10 + self.steps)).clamp(max=momentum)
        for mine_C, theirs_C in zip(teacher, student, strict=True):
            mine_C.lerp_(theirs_C, (1 - m).to(mine_C.dtype))
        self.steps.add_(1)


register_teacher_norm(
    "warm-eman", TeacherNorm(title="warm EMAN", statistics=WarmUp, rule="Eq. (9) with m_t = min(m, (1 + t)/(10 + t))")
)
register_scheme("warm-eman", Scheme(title="BN / warm EMAN", teacher="warm-eman"))
