"""Update a teacher's tensors from its student's: Eqs. (1) and (9)."""

from typing import Any

import torch
from torch import Tensor, nn

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
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, norm: TeacherNorm) -> None:
        self.student = student
        self._pairs: dict[Move, list[tuple[Slot, Slot]]] = {move: [] for move in Move}
        batch_norm_ids = {id(layer) for layer in batch_norms(teacher)}
        for mine, theirs in zip(teacher.modules(), student.modules(), strict=True):
            for name, parameter in mine._parameters.items():
                if parameter is not None:
                    self._pairs[norm.parameters].append(((mine._parameters, name), (theirs._parameters, name)))
            is_batch_norm = id(mine) in batch_norm_ids
            for name, buffer in mine._buffers.items():
                if buffer is None:
                    continue
                move = norm.statistics if is_batch_norm else norm.buffers
                if not buffer.is_floating_point() and move is not Move.KEEP:
                    move = Move.COPY  # counters cannot be averaged
                self._pairs[move].append(((mine._buffers, name), (theirs._buffers, name)))

    @torch.no_grad()
    def update(self, momentum: float | Tensor, eman_momentum: float | Tensor) -> None:
        """Average and copy, with one fused call per momentum and one for all copies.

        Args:
            momentum: m of Eq. (1).
            eman_momentum: m of Eq. (9).
        """
        averaged = list(self._pairs[Move.AVERAGE])
        if eman_momentum is momentum:
            averaged += self._pairs[Move.AVERAGE_STATISTICS]
        else:
            _average(*_tensors(self._pairs[Move.AVERAGE_STATISTICS]), eman_momentum)
        _average(*_tensors(averaged), momentum)
        if self._pairs[Move.COPY]:
            torch._foreach_copy_(*_tensors(self._pairs[Move.COPY]))


def _average(mine: list[Tensor], theirs: list[Tensor], momentum: float | Tensor) -> None:
    if not mine:
        return
    if isinstance(momentum, Tensor):  # a lerp would wait for the number
        steps = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(steps, 1 - momentum)
        torch._foreach_add_(mine, steps)
    else:
        torch._foreach_lerp_(mine, theirs, 1 - momentum)


def _tensors(pairs: list[tuple[Slot, Slot]]) -> tuple[list[Tensor], list[Tensor]]:
    mine = [holder[name] for (holder, name), _ in pairs]
    theirs = [holder[name] for _, (holder, name) in pairs]
    return mine, theirs
