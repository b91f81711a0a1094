"""What schedules change from step to step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rates:
    """Momentum and learning rate of a step: numbers, or scalars on the device, which a CUDA graph reads.

    Attributes:
        momentum: Momentum m of Eq. (1).
        lr: Learning rate.
    """

    momentum: float | Tensor
    lr: float | Tensor

    def at(self, momentum: float, lr: float) -> "Rates":
        """Return the values of another step; tensors are filled in place."""
        if isinstance(self.momentum, Tensor) and isinstance(self.lr, Tensor):
            self.momentum.fill_(momentum)
            self.lr.fill_(lr)
            return self
        return Rates(momentum, lr)
