"""SGD and LARS without PyTorch's optimizers, whose import loads its compiler and takes seconds."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

#: Trust coefficient eta of LARS.
_TRUST = 0.001


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

    where b = g + lambda theta at the first step. Nesterov's momentum subtracts eta (g + lambda theta + mu b) instead.

    Args:
        parameters: Parameters theta.
        lr: Learning rate eta. Change it in every group's ``"lr"``; it may be a scalar tensor on the parameters' device.
        momentum: Momentum mu.
        weight_decay: Weight decay lambda.
        undecayed: Further parameters, updated without weight decay.
        nesterov: Whether to use Nesterov's momentum.
        rate_inside: Multiply by the learning rate inside the buffer, b := mu b + eta (g + lambda theta) and
            theta := theta - b, so that a change of the rate does not act on earlier gradients. The same while the rate
            is constant.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        undecayed: Iterable[Tensor] = (),
        nesterov: bool = False,
        rate_inside: bool = False,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(parameters), "lr": lr, "weight_decay": weight_decay},
            {"params": list(undecayed), "lr": lr, "weight_decay": 0.0},
        ]
        self.momentum, self.nesterov, self.rate_inside = momentum, nesterov, rate_inside
        self._buffers: list[list[Tensor | None]] = [[None] * len(group["params"]) for group in self.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group, buffers in zip(self.param_groups, self._buffers, strict=True):
            indices = [n for n, parameter in enumerate(group["params"]) if parameter.grad is not None]
            parameters = [group["params"][n] for n in indices]
            if not parameters:
                continue
            steps, rate = self._directions(parameters, [p.grad for p in parameters], group), group["lr"]
            if self.rate_inside:
                steps = list(torch._foreach_mul(steps, rate))
            if self.momentum:
                averages = self._accumulate(buffers, indices, steps)
                steps = list(torch._foreach_add(steps, averages, alpha=self.momentum)) if self.nesterov else averages
            if self.rate_inside:
                torch._foreach_sub_(parameters, steps)
            elif isinstance(rate, Tensor):
                torch._foreach_add_(parameters, torch._foreach_mul(steps, -rate))
            else:
                torch._foreach_add_(parameters, steps, alpha=-rate)

    def _directions(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return the gradients with weight decay."""
        weight_decay = group["weight_decay"]
        return list(torch._foreach_add(gradients, parameters, alpha=weight_decay)) if weight_decay else gradients

    def _accumulate(self, buffers: list[Tensor | None], indices: list[int], steps: list[Tensor]) -> list[Tensor]:
        """Update and return the momentum buffers of the given parameters."""
        old, added = [], []
        for n, step in zip(indices, steps, strict=True):
            buffer = buffers[n]
            if buffer is None:
                buffers[n] = step.clone()
            else:
                old.append(buffer)
                added.append(step)
        if old:
            torch._foreach_mul_(old, self.momentum)
            torch._foreach_add_(old, added)
        return [buffer for n in indices if (buffer := buffers[n]) is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum buffers."""
        return {"buffers": [list(buffers) for buffers in self._buffers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._buffers = [
            [
                None if buffer is None else buffer.to(parameter.device, parameter.dtype).clone()
                for buffer, parameter in zip(buffers, group["params"], strict=True)
            ]
            for buffers, group in zip(state_dict["buffers"], self.param_groups, strict=True)
        ]


class LARS(SGD):
    r"""SGD whose step for a parameter is scaled to its norm (You et al., 2017), without a host's wait for the norms.

    .. math:: b := \mu b + \eta_0 \frac{\|\theta\|}{\|g\| + \lambda \|\theta\|} (g + \lambda \theta)

    with eta_0 = 0.001. The factor is 1 where either norm is 0. Parameters in ``undecayed`` are updated as by SGD.
    """

    def _directions(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        if group is self.param_groups[1]:
            return gradients
        weight_decay = group["weight_decay"]
        size_P, slope_P = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, gradients))
        trust_P = _TRUST * size_P / (slope_P + weight_decay * size_P)
        trust_P = torch.where((size_P > 0) & (slope_P > 0), trust_P, 1.0)
        steps = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))
        torch._foreach_mul_(steps, trust_P.unbind())
        return steps
