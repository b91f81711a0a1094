"""The interface of all losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from eman.trainers.spec.method import MethodSection

S = TypeVar("S", bound=MethodSection)


class Criterion(nn.Module, Generic[S]):
    """A loss, with state that it keeps between steps.

    ``forward(student, teacher, labels)`` takes the outputs of both networks and the labels by stream, for a batch or a
    part of it. It returns the loss and other measures, all scalars and means over images, so that averaging them over
    equal parts gives the batch's values. It must not change the state.

    Args:
        spec: The method's section.
        devices: Devices of the run.
        generator: Source of randomness for initial state.
    """

    def __init__(self, spec: S, devices: int, generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec

    def after_step(self, teacher: list[Tensor]) -> None:
        """Update the state, once per step after the backward pass.

        Args:
            teacher: The teacher's outputs for this worker's whole batch.
        """


def whole(student: nn.Sequential) -> nn.Sequential:
    """Return the whole student, the part that most teachers copy."""
    return student


@dataclass(frozen=True, kw_only=True)
class Parts(Generic[S]):
    """A method's heads and loss.

    Attributes:
        heads: Builds the layers after the backbone, by name and in order, from the method's section, the number of
            backbone features and the number of classes.
        criterion: Builds the loss from the method's section, the number of devices and a generator.
        followed: Returns the part of the student that the teacher copies.
    """

    heads: Callable[[S, int, int], dict[str, nn.Module]]
    criterion: Callable[[S, int, torch.Generator], Criterion[S]]
    followed: Callable[[nn.Sequential], nn.Sequential] = whole
