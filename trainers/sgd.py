"""Stochastic gradient descent that starts quickly: PyTorch's own optimizers import its compiler, seconds of CPU."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """What a training asks of an optimizer; PyTorch's have it, too."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Move the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""


class SGD:
    r"""The same as ``torch.optim.SGD(..., foreach=True)``, bit for bit.

    .. math:: b := \mu b + (g + \lambda \theta), \qquad \theta := \theta - \eta b

    with b = g + lambda theta at the first step.

    Args:
        parameters: theta.
        lr: eta; change it in ``param_groups[0]["lr"]``.
        momentum: mu.
        weight_decay: lambda.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.momentum, self.weight_decay = momentum, weight_decay
        self._buffers: list[Tensor | None] = [None] * len(self.param_groups[0]["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        (group,) = self.param_groups
        moved = [n for n, parameter in enumerate(group["params"]) if parameter.grad is not None]
        parameters = [group["params"][n] for n in moved]
        steps = [parameter.grad for parameter in parameters]
        if self.weight_decay:
            steps = list(torch._foreach_add(steps, parameters, alpha=self.weight_decay))
        if self.momentum:
            steps = self._accumulate(moved, steps)
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _accumulate(self, moved: list[int], steps: list[Tensor]) -> list[Tensor]:
        """Update the momentum buffers of the parameters that move, and return them."""
        buffers, added = [], []
        for n, step in zip(moved, steps, strict=True):
            buffer = self._buffers[n]
            if buffer is None:
                self._buffers[n] = step.clone()
            else:
                buffers.append(buffer)
                added.append(step)
        if buffers:
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, added)
        return [buffer for n in moved if (buffer := self._buffers[n]) is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs."""
        return {"lr": self.param_groups[0]["lr"], "buffers": list(self._buffers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        (group,) = self.param_groups
        group["lr"] = state_dict["lr"]
        self._buffers = [
            None if buffer is None else buffer.to(parameter.device, parameter.dtype).clone()
            for buffer, parameter in zip(state_dict["buffers"], group["params"], strict=True)
        ]
