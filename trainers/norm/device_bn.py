"""Batch normalization over devices.

Shapes: N samples on this worker, V devices on this worker, C channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers import distributed
from eman.trainers.accel import fused
from eman.trainers.norm.sync import SyncBatchNormFunction


class DeviceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization, Eqs. (2)-(5), over the devices that this worker hosts.

    In training, sample ``j`` of the worker's batch belongs to device ``j mod V``, and each device's samples are
    normalized with that device's statistics. On a CPU, a batch in channels-last memory is served by the kernels of
    :mod:`eman.trainers.accel.fused`; elsewhere one call on the view ``(N/V, V*C, ...)`` serves all devices.
    With ``sync`` the statistics are those of all devices of all workers, on any backend.

    Where a batch holds the samples of P ``passes`` through the network, interleaved (:func:`in_one_pass`), each pass
    has statistics of its own, as if they had come one after the other.

    The running statistics follow PyTorch's convention: the variance that enters Eq. (4) is the unbiased one, as in the
    official code; Eq. (2) normalizes with the biased one. They follow device 0's statistics, which is what DDP's
    buffer broadcast gives the official code, or the mean over devices. Workers other than 0 learn device 0's through
    :func:`share_statistics`; until then their running statistics are their own first device's.

    Args:
        num_features: C.
        devices: V, the devices that this worker hosts.
        sync: Normalize over all devices of all workers.
        device_statistics: ``"device0"`` or ``"mean"``.
        eps: Epsilon of Eq. (3).
        momentum: One minus alpha of Eq. (4), PyTorch's convention; ``None``: the plain mean over batches.
    """

    def __init__(
        self,
        num_features: int,
        *,
        devices: int = 1,
        sync: bool = False,
        device_statistics: str = "device0",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.devices, self.sync, self.device_statistics = devices, sync, device_statistics
        self.passes = 1
        self.still = False

    def extra_repr(self) -> str:
        return f"{self.num_features}, devices={self.devices}, sync={self.sync}, {self.device_statistics}"

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalizes ``x``; adds ``residual`` and takes the positive part where they are asked for."""
        groups = self.passes if self.sync else self.passes * self.devices
        samples, channels = x.shape[:2]
        if self.training and samples % groups:
            raise ValueError(f"a batch of {samples} samples cannot be spread evenly over {groups} devices")
        if not self._fused(x, residual):
            return _followed(self._plain(x, groups), residual, relu)
        if not self.training:
            assert self.running_mean is not None and self.running_var is not None
            scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
            return fused.affine(x, scale_C, self.bias - self.running_mean * scale_C, residual, relu)
        y, mean, var = fused.batch_norm(x, self.weight, self.bias, groups, self.eps, residual, relu)
        if not self.still:
            self._move(mean.view(-1, self.passes, channels), var.view(-1, self.passes, channels))
        return y

    def _fused(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether the kernels can do it: nothing is asked of other workers, and nobody asks for Eq. (8)'s gradient."""
        if self.training:
            possible = not self._waits
        else:
            possible = not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
        return possible and (residual is None or residual.dtype == x.dtype) and fused.serves(x, self.weight)

    @property
    def _waits(self) -> bool:
        """Whether other workers take part in the statistics."""
        return self.sync and distributed.workers() > 1

    def _plain(self, x: Tensor, groups: int) -> Tensor:
        """The same by PyTorch's operations."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        samples, channels = x.shape[:2]
        weight, bias = (p if groups == 1 else p.expand(groups, -1).reshape(-1) for p in (self.weight, self.bias))
        view = x.reshape(samples // groups, groups * channels, *x.shape[2:])
        if self._waits:
            y, mean, var = SyncBatchNormFunction.apply(view, weight, bias, self.eps)
        else:
            # With momentum 1, batch_norm leaves the batch's own statistics in the two buffers that it is given.
            mean, var = weight.new_zeros(len(weight)), weight.new_ones(len(weight))
            y = F.batch_norm(view, mean, var, weight, bias, True, 1.0, self.eps)
        if not self.still:
            self._move(mean.view(-1, self.passes, channels), var.view(-1, self.passes, channels))
        # Nothing else holds this output, so it need not be a view, on which an in-place ReLU would cost two copies.
        return torch.ops.aten._unsafe_view(y, x.shape)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _move(self, mean_VPC: Tensor, var_VPC: Tensor) -> None:
        """Eq. (4), once for each of the P passes."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        of_all = self.device_statistics == "mean"
        mean_PC, var_PC = (s_VPC.mean(0) if of_all else s_VPC[0] for s_VPC in (mean_VPC, var_VPC))
        for mean_C, var_C in zip(mean_PC, var_PC, strict=True):
            self.num_batches_tracked.add_(1)
            weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, weight)
            self.running_var.lerp_(var_C, weight)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Vectors ``(N, C)`` and maps ``(N, C, S...)`` are both welcome."""


def _followed(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        y = y + residual
    return F.relu(y, inplace=True) if relu else y


def norm_relu(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """``relu(norm(x) + residual)``, in one where the norm can do it."""
    if isinstance(norm, DeviceBatchNorm):
        return norm(x, residual, True)  # type: ignore[no-any-return]
    return _followed(norm(x), residual, True)


def in_one_pass(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What ``[network(x) for x in inputs]`` gives, by one larger pass.

    Args:
        network: Its batch norms are :class:`DeviceBatchNorm`.
        inputs: P of them, of equal shape, first axis N.
    """
    if len(inputs) == 1:
        return [network(inputs[0])]
    with _set(network, passes=len(inputs)):
        y: Tensor = network(torch.stack(list(inputs), 1).flatten(0, 1))
    return list(y.unflatten(0, (-1, len(inputs))).unbind(1))


def device_norms(module: nn.Module) -> list[DeviceBatchNorm]:
    """Every :class:`DeviceBatchNorm` in ``module``."""
    return [layer for layer in module.modules() if isinstance(layer, DeviceBatchNorm)]


def prefers_channels_last(module: nn.Module) -> bool:
    """Whether the norms of ``module`` are faster in that layout on a CPU: :mod:`eman.trainers.accel.fused`
    serve them, and other norms it has not.
    """
    layers = device_norms(module)
    return bool(layers) and not any(layer._waits or layer.num_features % fused.lanes() for layer in layers)


def still(module: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, passes through ``module`` leave its running statistics where they are."""
    return _set(module, still=True)


def again(module: nn.Module) -> AbstractContextManager[None]:
    """To compute a pass through ``module`` a second time, later: as its batch norms stand now, and :func:`still`."""
    layers = device_norms(module)
    return _set(module, still=True, passes=layers[0].passes if layers else 1)


@contextmanager
def _set(module: nn.Module, **values: Any) -> Iterator[None]:
    layers = device_norms(module)
    before = [{name: getattr(layer, name) for name in values} for layer in layers]
    for layer in layers:
        layer.__dict__.update(values)
    try:
        yield
    finally:
        for layer, found in zip(layers, before, strict=True):
            layer.__dict__.update(found)
