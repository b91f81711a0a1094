"""What the losses of all methods have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from eman.trainers.spec.method import MethodSection

S = TypeVar("S", bound=MethodSection)


class Criterion(nn.Module):
    """A loss, and what it keeps from step to step.

    ``forward(student, teacher, labels)`` takes the outputs of both networks and the labels by stream, for a batch or a
    part of it, and returns the loss and other measures. All of them are means over images, so that their means over
    equal parts are those of the batch. It changes nothing that later parts see.
    """

    def after_step(self, teacher: list[Tensor]) -> None:
        """Update what is kept: called once a step, after the backward pass, with the teacher's outputs on this
        worker's whole batch.
        """


def whole(student: nn.Sequential) -> nn.Sequential:
    """Return the part of the student that the teacher copies: all of it."""
    return student


@dataclass(frozen=True, kw_only=True)
class Parts(Generic[S]):
    """What a method adds to a backbone.

    Attributes:
        heads: Make the layers that follow the backbone, by name and in order, from the method's section, the number of
            the backbone's features and the number of classes.
        criterion: Make the loss from the method's section, the number of devices and a generator.
        followed: Return the part of the student that the teacher copies.
    """

    heads: Callable[[S, int, int], dict[str, nn.Module]]
    criterion: Callable[[S, int, torch.Generator], Criterion]
    followed: Callable[[nn.Sequential], nn.Sequential] = whole
