"""SGD without PyTorch's optimizers, whose import loads its compiler and takes seconds."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """The part of PyTorch's optimizer interface that training uses."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""

    def step(self) -> Any:
        """Update the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""


class SGD:
    r"""SGD with momentum, bit-identical to ``torch.optim.SGD(..., foreach=True)``.

    .. math:: b := \mu b + (g + \lambda \theta), \qquad \theta := \theta - \eta b

    where b = g + lambda theta at the first step.

    Args:
        parameters: Parameters theta.
        lr: Learning rate eta; change it in ``param_groups[0]["lr"]``.
        momentum: Momentum mu.
        weight_decay: Weight decay lambda.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.momentum, self.weight_decay = momentum, weight_decay
        self._buffers: list[Tensor | None] = [None] * len(self.param_groups[0]["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.param_groups[0]["params"]:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        (group,) = self.param_groups
        indices = [n for n, parameter in enumerate(group["params"]) if parameter.grad is not None]
        parameters = [group["params"][n] for n in indices]
        steps = [parameter.grad for parameter in parameters]
        if self.weight_decay:
            steps = list(torch._foreach_add(steps, parameters, alpha=self.weight_decay))
        if self.momentum:
            steps = self._accumulate(indices, steps)
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _accumulate(self, indices: list[int], steps: list[Tensor]) -> list[Tensor]:
        """Update and return the momentum buffers of the given parameters."""
        buffers, added = [], []
        for n, step in zip(indices, steps, strict=True):
            buffer = self._buffers[n]
            if buffer is None:
                self._buffers[n] = step.clone()
            else:
                buffers.append(buffer)
                added.append(step)
        if buffers:
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, added)
        return [buffer for n in indices if (buffer := self._buffers[n]) is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate and the momentum buffers."""
        return {"lr": self.param_groups[0]["lr"], "buffers": list(self._buffers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        (group,) = self.param_groups
        group["lr"] = state_dict["lr"]
        self._buffers = [
            None if buffer is None else buffer.to(parameter.device, parameter.dtype).clone()
            for buffer, parameter in zip(state_dict["buffers"], group["params"], strict=True)
        ]
