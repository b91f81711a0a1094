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
from eman.trainers.accel import norms
from eman.trainers.accel.width import LANES
from eman.trainers.norm.sync import SyncBatchNormFunction


class DeviceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization, Eqs. (2)-(5), over the devices that this worker hosts.

    In training, sample ``j`` of the worker's batch belongs to device ``j mod V``, and each device's samples are
    normalized with that device's statistics. On a CPU, a batch in channels-last memory goes to the kernels of
    :mod:`eman.trainers.accel`; elsewhere one call on the view ``(N/V, V*C, ...)`` serves all devices.
    With ``sync`` the statistics are those of all devices of all workers, on any backend.

    Where a batch holds the samples of P ``passes`` through the network, interleaved (:func:`in_one_pass`), each pass
    has statistics of its own, as if they had come one after the other.

    The running statistics follow PyTorch's convention: the variance that enters Eq. (4) is the unbiased one, as in the
    official code; Eq. (2) normalizes with the biased one. They follow device 0's statistics, which is what DDP's
    buffer broadcast gives the official code, or the mean over devices. Workers other than 0 learn device 0's through
    :func:`~eman.trainers.norm.statistics.share_statistics`; until then their running statistics are their first
    device's.

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
        self.frozen = False

    def extra_repr(self) -> str:
        return f"{self.num_features}, devices={self.devices}, sync={self.sync}, {self.device_statistics}"

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalize ``x``, add ``residual`` if there is one, apply ReLU if asked to."""
        groups = self.passes if self.sync else self.passes * self.devices
        samples = len(x)
        if self.training and samples % groups:
            raise ValueError(f"a batch of {samples} samples cannot be spread evenly over {groups} devices")
        if not self._served(x, residual):
            return _add_and_relu(self._by_pytorch(x, groups), residual, relu)
        if not self.training:
            assert self.running_mean is not None and self.running_var is not None
            scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
            return norms.affine(x, scale_C, self.bias - self.running_mean * scale_C, residual, relu)
        y, mean, var = norms.batch_norm(x, self.weight, self.bias, groups, self.eps, residual, relu)
        self._track(mean, var)
        return y

    def _served(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether the kernels can do it: no other worker takes part, and Eq. (8) needs no gradient."""
        if self.training:
            possible = not self._spans_workers
        else:
            possible = not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
        return possible and (residual is None or residual.dtype == x.dtype) and norms.serves(x, self.weight)

    @property
    def _spans_workers(self) -> bool:
        return self.sync and distributed.workers() > 1

    def _by_pytorch(self, x: Tensor, groups: int) -> Tensor:
        """Normalize by PyTorch's operations."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        samples, channels = x.shape[:2]
        weight, bias = (p if groups == 1 else p.expand(groups, -1).reshape(-1) for p in (self.weight, self.bias))
        view = x.reshape(samples // groups, groups * channels, *x.shape[2:])
        if self._spans_workers:
            y, mean, var = SyncBatchNormFunction.apply(view, weight, bias, self.eps)
        else:
            # With momentum 1, batch_norm leaves the batch's own statistics in the two buffers that it is given.
            mean, var = weight.new_zeros(len(weight)), weight.new_ones(len(weight))
            y = F.batch_norm(view, mean, var, weight, bias, True, 1.0, self.eps)
        self._track(mean, var)
        # Nothing else holds this output, so it need not be a view, on which an in-place ReLU would cost two copies.
        return torch.ops.aten._unsafe_view(y, x.shape)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Apply Eq. (4), once for each of the P passes, unless the layer is frozen."""
        if self.frozen:
            return
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        shape = (-1, self.passes, self.num_features)
        over_devices = self.device_statistics == "mean"
        mean_PC, var_PC = (s.view(shape).mean(0) if over_devices else s.view(shape)[0] for s in (mean, var))
        for mean_C, var_C in zip(mean_PC, var_PC, strict=True):
            self.num_batches_tracked.add_(1)
            weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, weight)
            self.running_var.lerp_(var_C, weight)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Take vectors ``(N, C)`` and maps ``(N, C, S...)`` alike."""


def _add_and_relu(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        y = y + residual
    return F.relu(y, inplace=True) if relu else y


def norm_relu(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return ``relu(norm(x) + residual)``, fused if the norm can do it."""
    if isinstance(norm, DeviceBatchNorm):
        return norm(x, residual, True)  # type: ignore[no-any-return]
    return _add_and_relu(norm(x), residual, True)


def in_one_pass(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same as ``[network(x) for x in inputs]``, by one larger pass.

    Args:
        network: Its batch norms are :class:`DeviceBatchNorm`.
        inputs: P of them, of equal shape, first axis N.
    """
    if len(inputs) == 1:
        return [network(inputs[0])]
    with _attributes(network, passes=len(inputs)):
        y: Tensor = network(torch.stack(list(inputs), 1).flatten(0, 1))
    return list(y.unflatten(0, (-1, len(inputs))).unbind(1))


def device_norms(module: nn.Module) -> list[DeviceBatchNorm]:
    """Return every :class:`DeviceBatchNorm` in ``module``."""
    return [layer for layer in module.modules() if isinstance(layer, DeviceBatchNorm)]


def prefers_channels_last(module: nn.Module) -> bool:
    """Return whether channels-last memory makes the norms of ``module`` faster on a CPU: the kernels of
    :mod:`eman.trainers.accel` serve all of them.
    """
    layers = device_norms(module)
    return bool(layers) and not any(layer._spans_workers or layer.num_features % LANES for layer in layers)


def frozen_statistics(module: nn.Module) -> AbstractContextManager[None]:
    """Keep passes through ``module`` from moving its running statistics."""
    return _attributes(module, frozen=True)


def repeated_pass(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context for computing a pass a second time: its batch norms as they are now, statistics frozen."""
    layers = device_norms(module)
    return _attributes(module, frozen=True, passes=layers[0].passes if layers else 1)


@contextmanager
def _attributes(module: nn.Module, **values: Any) -> Iterator[None]:
    """Set attributes of all batch norms in ``module`` for a while."""
    layers = device_norms(module)
    before = [{name: getattr(layer, name) for name in values} for layer in layers]
    for layer in layers:
        layer.__dict__.update(values)
    try:
        yield
    finally:
        for layer, values_before in zip(layers, before, strict=True):
            layer.__dict__.update(values_before)
