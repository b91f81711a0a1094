"""Update a teacher's tensors from its student's: Eqs. (1) and (9)."""

from typing import Any

import torch
from torch import Tensor, nn

from eman.trainers.norm.rules import StatisticsRule
from eman.trainers.norm.schemes import Move, TeacherNorm
from eman.trainers.norm.statistics import batch_norms

#: A tensor as a module's dictionary of parameters or buffers, and a name in it: ``Module.to`` may replace the tensor.
Slot = tuple[dict[str, Any], str]


class Follower:
    """The tensors of a teacher and its student, in pairs, grouped by how an update moves them.

    Args:
        teacher: The teacher's network.
        student: A network of the same structure.
        norm: How parameters, statistics and other buffers move.
        rule: The teacher's rule, if statistics move by one.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, norm: TeacherNorm, rule: StatisticsRule | None = None
    ) -> None:
        self.student, self._rule = student, rule
        self._pairs: dict[Move, list[tuple[Slot, Slot]]] = {move: [] for move in Move}
        self._ruled: list[tuple[Slot, Slot]] = []
        batch_norm_ids = {id(layer) for layer in batch_norms(teacher)}
        for mine, theirs in zip(teacher.modules(), student.modules(), strict=True):
            for name, parameter in mine._parameters.items():
                if parameter is not None:
                    self._pairs[norm.parameters].append(((mine._parameters, name), (theirs._parameters, name)))
            is_batch_norm = id(mine) in batch_norm_ids
            for name, buffer in mine._buffers.items():
                if buffer is None:
                    continue
                pair = ((mine._buffers, name), (theirs._buffers, name))
                move = norm.statistics if is_batch_norm else norm.buffers
                if not buffer.is_floating_point() and move is not Move.KEEP:
                    move = Move.COPY  # counters cannot be averaged
                (self._pairs[move] if isinstance(move, Move) else self._ruled).append(pair)

    @torch.no_grad()
    def update(self, momentum: float | Tensor, eman_momentum: float | Tensor, student_share: Tensor) -> None:
        """Average and copy, with one fused call per momentum and one for all copies.

        Args:
            momentum: m of Eq. (1).
            eman_momentum: m of Eq. (9).
            student_share: Scalar, updated in place: the student's share of averaged statistics, 1 - Π m over all
                updates, by which bias-corrected averages are divided.
        """
        pairs = list(self._pairs[Move.AVERAGE])
        if eman_momentum is momentum:
            pairs += self._pairs[Move.AVERAGE_STATISTICS]
        else:
            _follow(*_tensors(self._pairs[Move.AVERAGE_STATISTICS]), 1 - eman_momentum)
        _follow(*_tensors(pairs), 1 - momentum)
        if self._pairs[Move.AVERAGE_CORRECTED]:
            _follow(*_tensors(self._pairs[Move.AVERAGE_CORRECTED]), _corrected_rate(1 - eman_momentum, student_share))
        if self._rule is not None:
            self._rule.move(*_tensors(self._ruled), eman_momentum)
        if self._pairs[Move.COPY]:
            torch._foreach_copy_(*_tensors(self._pairs[Move.COPY]))


def _corrected_rate(rate: float | Tensor, student_share: Tensor) -> Tensor:
    r"""Return the rate at which a bias-corrected average moves, and update ``student_share``.

    With :math:`s_t = m_t s_{t-1} + (1 - m_t) \mu_t` from :math:`s_0 = 0` and :math:`a_t = 1 - \prod_{i \le t} m_i`,
    the average :math:`\mu'_t = s_t / a_t` satisfies
    :math:`\mu'_t = \mu'_{t-1} + \frac{1 - m_t}{a_t} (\mu_t - \mu'_{t-1})`. At the first update with
    :math:`m < 1` it becomes the student's.
    """
    student_share.add_(rate * (1 - student_share))
    return torch.where(student_share > 0, rate / student_share, 0)


def _follow(mine: list[Tensor], theirs: list[Tensor], rate: float | Tensor) -> None:
    """Move tensors towards others: ``mine += rate (theirs - mine)``."""
    if not mine:
        return
    if isinstance(rate, Tensor):  # a lerp would wait for the number
        steps = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(steps, rate.to(steps[0].dtype))
        torch._foreach_add_(mine, steps)
    else:
        torch._foreach_lerp_(mine, theirs, rate)


def _tensors(pairs: list[tuple[Slot, Slot]]) -> tuple[list[Tensor], list[Tensor]]:
    mine = [holder[name] for (holder, name), _ in pairs]
    theirs = [holder[name] for _, (holder, name) in pairs]
    return mine, theirs
