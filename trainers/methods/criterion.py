"""What the losses of all methods have in common."""

from torch import Tensor, nn


class Criterion(nn.Module):
    """A loss, and what it keeps from step to step.

    ``forward(student, teacher, labels)`` takes the outputs of both networks and the labels by stream, for a batch or a
    part of it, and gives the loss and other measures. All of them are means over images, so that their means over
    equal parts are those of the batch. It changes nothing that later parts see.
    """

    def after_step(self, teacher: list[Tensor]) -> None:
        """Called once a step, after the backward pass, with the teacher's outputs on this worker's whole batch."""
