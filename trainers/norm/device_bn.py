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
from eman.trainers.norm.activated import ActivatedNorm
from eman.trainers.norm.sync import SyncBatchNormFunction


class DeviceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization, Eqs. (2)-(5), over the devices that this worker hosts.

    In training, sample ``j`` of the worker's batch belongs to device ``j mod V`` and is normalized with that device's
    batch statistics; with ``sync``, with those of all devices of all workers. Channels-last batches use the kernels of
    :mod:`eman.trainers.accel`, others one PyTorch call on the view ``(N/V, V*C, ...)``.

    A batch may interleave the samples of P ``passes`` (:func:`in_one_pass`); each pass then has its own statistics, as
    in P separate calls.

    Running statistics follow PyTorch and the official code: Eq. (4) takes the unbiased variance, Eq. (2) the biased
    one. They track device 0, as DDP's buffer broadcast does in the official code, or the mean over devices. Workers
    other than 0 track their first device until
    :func:`~eman.trainers.norm.statistics.share_statistics` gives them device 0's.

    Args:
        num_features: C.
        devices: V, the devices that this worker hosts.
        sync: Normalize over all devices of all workers.
        device_statistics: Running statistics of ``"device0"``, or the ``"mean"`` over devices.
        eps: Epsilon of Eq. (3).
        momentum: 1 - alpha of Eq. (4), PyTorch's convention; ``None`` for the plain mean over batches.
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
        """Normalize ``x``, ``(N, C)`` or ``(N, C, ...)``; then add ``residual`` and apply ReLU if given.

        Raises:
            ValueError: In training, devices and passes do not divide N.
        """
        groups = self.passes if self.sync else self.passes * self.devices
        samples = x.shape[0]  # len() would fix the batch size of an exported graph
        if self.training and samples % groups:
            raise ValueError(f"a batch of {samples} samples cannot be spread evenly over {groups} devices")
        if not self._kernels_apply(x, residual):
            return _add_and_relu(self._by_pytorch(x, groups), residual, relu)
        if not self.training:
            assert self.running_mean is not None and self.running_var is not None
            scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
            return norms.affine(x, scale_C, self.bias - self.running_mean * scale_C, residual, relu)
        y, mean, var = norms.batch_norm(x, self.weight, self.bias, groups, self.eps, residual, relu)
        self._track(mean, var)
        return y

    def _kernels_apply(self, x: Tensor, residual: Tensor | None) -> bool:
        """Return whether the kernels can be used: with one worker, and in evaluation without gradient."""
        if self.training:
            possible = not self._spans_workers
        else:
            possible = not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
        return possible and (residual is None or residual.dtype == x.dtype) and norms.serves(x, self.weight)

    @property
    def _spans_workers(self) -> bool:
        return self.sync and distributed.workers() > 1

    def _by_pytorch(self, x: Tensor, groups: int) -> Tensor:
        """Normalize with PyTorch's operations."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        samples, channels = x.shape[:2]
        weight, bias = (p if groups == 1 else p.expand(groups, -1).reshape(-1) for p in (self.weight, self.bias))
        view = x.reshape(samples // groups, groups * channels, *x.shape[2:])
        if self._spans_workers:
            y, mean, var = SyncBatchNormFunction.apply(view, weight, bias, self.eps)
        else:
            # With momentum 1, batch_norm writes the batch statistics to the two buffers.
            mean, var = weight.new_zeros(len(weight)), weight.new_ones(len(weight))
            y = F.batch_norm(view, mean, var, weight, bias, True, 1.0, self.eps)
        self._track(mean, var)
        # Nothing else refers to this output, so it need not be a view, on which an in-place ReLU would cost two copies.
        return torch.ops.aten._unsafe_view(y, x.shape)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Apply Eq. (4) once per pass, unless the layer is frozen."""
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
        """Accept vectors ``(N, C)`` and maps ``(N, C, ...)``."""


def _add_and_relu(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        y = y + residual
    return F.relu(y, inplace=True) if relu else y


def norm_relu(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return ``relu(norm(x) + residual)``, fused if the norm is a :class:`DeviceBatchNorm`.

    A norm with its own activation replaces ReLU, unless a residual is added in between.
    """
    if isinstance(norm, DeviceBatchNorm):
        return norm(x, residual, True)  # type: ignore[no-any-return]
    if isinstance(norm, ActivatedNorm) and norm.activated and residual is None:
        return norm(x)  # type: ignore[no-any-return]
    return _add_and_relu(norm(x), residual, True)


def in_one_pass(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Compute ``[network(x) for x in inputs]`` in one larger pass.

    Args:
        network: A network whose batch norms are :class:`DeviceBatchNorm`.
        inputs: P inputs of equal shape ``(N, ...)``.

    Returns:
        P outputs of shape ``(N, ...)``.
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
    """Return whether channels-last memory makes ``module`` faster on a CPU: if the kernels of
    :mod:`eman.trainers.accel` can compute all of its batch norms.
    """
    layers = device_norms(module)
    return bool(layers) and not any(layer._spans_workers or layer.num_features % LANES for layer in layers)


def frozen_statistics(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which passes through ``module`` leave its running statistics unchanged."""
    return _attributes(module, frozen=True)


def repeated_pass(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context for recomputing the current pass later: same number of passes, statistics frozen."""
    layers = device_norms(module)
    return _attributes(module, frozen=True, passes=layers[0].passes if layers else 1)


@contextmanager
def _attributes(module: nn.Module, **values: Any) -> Iterator[None]:
    """Temporarily set attributes of every :class:`DeviceBatchNorm` in ``module``."""
    layers = device_norms(module)
    before = [{name: getattr(layer, name) for name in values} for layer in layers]
    for layer in layers:
        layer.__dict__.update(values)
    try:
        yield
    finally:
        for layer, values_before in zip(layers, before, strict=True):
            layer.__dict__.update(values_before)
