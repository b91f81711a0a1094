"""Moving a teacher's tensors towards its student's: Eqs. (1) and (9)."""

from typing import Any

import torch
from torch import Tensor, nn

from eman.trainers.norm.schemes import Move, TeacherNorm
from eman.trainers.norm.statistics import batch_norms

#: A module's dictionary of parameters or buffers, and a name in it. ``Module.to`` replaces the tensors, not the places.
Place = tuple[dict[str, Any], str]


class Follower:
    """The tensors of a teacher and of its student, in pairs, grouped by what an update does to them.

    Args:
        teacher: The teacher's network.
        student: A network of the same structure.
        norm: Says what happens to parameters, statistics and other buffers.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, norm: TeacherNorm) -> None:
        self.student = student
        self._pairs: dict[Move, list[tuple[Place, Place]]] = {move: [] for move in Move}
        statistics = {id(layer) for layer in batch_norms(teacher)}
        for mine, theirs in zip(teacher.modules(), student.modules(), strict=True):
            for name, parameter in mine._parameters.items():
                if parameter is not None:
                    self._pairs[norm.parameters].append(((mine._parameters, name), (theirs._parameters, name)))
            of_statistics = id(mine) in statistics
            for name, buffer in mine._buffers.items():
                if buffer is None:
                    continue
                move = norm.statistics if of_statistics else norm.buffers
                if not buffer.is_floating_point() and move is not Move.KEEP:
                    move = Move.COPY  # an average of integers means nothing
                self._pairs[move].append(((mine._buffers, name), (theirs._buffers, name)))

    @torch.no_grad()
    def update(self, momentum: float, eman_momentum: float) -> None:
        """Average and copy, with one fused call for each momentum and one for all copies."""
        averaged = list(self._pairs[Move.AVERAGE])
        if eman_momentum == momentum:
            averaged += self._pairs[Move.AVERAGE_STATISTICS]
        elif self._pairs[Move.AVERAGE_STATISTICS]:
            torch._foreach_lerp_(*_tensors(self._pairs[Move.AVERAGE_STATISTICS]), 1 - eman_momentum)
        if averaged:
            torch._foreach_lerp_(*_tensors(averaged), 1 - momentum)
        if self._pairs[Move.COPY]:
            torch._foreach_copy_(*_tensors(self._pairs[Move.COPY]))


def _tensors(pairs: list[tuple[Place, Place]]) -> tuple[list[Tensor], list[Tensor]]:
    mine = [holder[name] for (holder, name), _ in pairs]
    theirs = [holder[name] for _, (holder, name) in pairs]
    return mine, theirs
