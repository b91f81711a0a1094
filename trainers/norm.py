"""How student and teacher normalize: the schemes of Tables 1 and 8 as data, and batch normalization over devices.

Shapes: N samples on this worker, V devices on this worker, C channels, S spatial extent.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from eman.platform.errors import UserError, named, unknown
from eman.trainers import distributed, fused


@dataclass(frozen=True, kw_only=True)
class TeacherNorm:
    """How a teacher normalizes.

    Attributes:
        norm: Kind of layer: ``bn``, ``syncbn``, ``gn``, ``in``, ``ln``; ``None``: the student's.
        own_batch: It normalizes with the statistics of its own batch, Eq. (3); otherwise with stored ones, Eq. (8).
        statistics: Where stored statistics come from: ``own`` batches while normalizing with them, ``average`` of the
            student's, Eq. (9), a ``copy`` of the student's, or what the teacher has ``collect``-ed from its own inputs
            up to the previous iteration, Eq. (4).
        shuffle: Its inputs are permuted over all devices and its outputs put back (ShuffleBN).
        joint: There is no second network: the student's pass over all views serves as the teacher's (FixMatch).
    """

    norm: str | None = None
    own_batch: bool = False
    statistics: str = "own"
    shuffle: bool = False
    joint: bool = False


#: Student norms, with the paper's names for them.
STUDENT_NORMS = {"bn": "BN", "syncbn": "SyncBN", "gn": "GN", "in": "IN", "ln": "LN"}

TEACHER_NORMS = {
    **{kind: TeacherNorm(norm=kind, own_batch=True) for kind in STUDENT_NORMS},
    "shufflebn": TeacherNorm(norm="bn", own_batch=True, shuffle=True),
    "eman": TeacherNorm(statistics="average"),
    "student-pn": TeacherNorm(statistics="copy"),
    "teacher-pn": TeacherNorm(statistics="collect"),
    "student": TeacherNorm(joint=True),
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A row of Table 1 or 8. ``None`` means that the value plays no part or, for ``eman_momentum``, that the
    statistics move with the momentum of the parameters.
    """

    title: str
    student: str = "bn"
    teacher: str
    student_proxy_momentum: float = 0.9
    teacher_proxy_momentum: float | None = None
    eman_momentum: float | None = None


#: Every row of Tables 1 and 8, and LN. A new scheme is one entry. ``default`` is FixMatch's; the entries of the other
#: methods (``trainers/methods.py``) say which scheme is theirs.
SCHEMES = {
    "default": Scheme(title="default / default", teacher="student"),
    "bn": Scheme(title="BN / BN", teacher="bn"),
    "syncbn": Scheme(title="SyncBN / SyncBN", student="syncbn", teacher="syncbn"),
    "shufflebn": Scheme(title="BN / ShuffleBN", teacher="shufflebn"),
    "gn": Scheme(title="GN / GN", student="gn", teacher="gn"),
    "in": Scheme(title="IN / IN", student="in", teacher="in"),
    "ln": Scheme(title="LN / LN", student="ln", teacher="ln"),
    "eman": Scheme(title="BN / EMAN", teacher="eman"),
    "eman-m0.9": Scheme(title="BN / EMAN (m=0.9)", teacher="eman", eman_momentum=0.9),
    "eman-m0.99999": Scheme(title="BN / EMAN (m=0.99999)", teacher="eman", eman_momentum=0.99999),
    "teacher-pn-0.9": Scheme(title="BN / teacher PN (α=0.9)", teacher="teacher-pn", teacher_proxy_momentum=0.9),
    "student-pn-0.9": Scheme(title="BN / student PN (α=0.9)", teacher="student-pn"),
    "teacher-pn-0.999": Scheme(title="BN / teacher PN (α=0.999)", teacher="teacher-pn", teacher_proxy_momentum=0.999),
    "student-pn-0.999": Scheme(title="BN / student PN (α=0.999)", teacher="student-pn", student_proxy_momentum=0.999),
}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name.

    Raises:
        UserError: There is none.
    """
    return named("scheme", name, SCHEMES)


class DeviceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization, Eqs. (2)-(5), over the devices that this worker hosts.

    In training, sample ``j`` of the worker's batch belongs to device ``j mod V``, and each device's samples are
    normalized with that device's statistics. On a CPU, a batch in channels-last memory is served by the kernels of
    :mod:`eman.trainers.fused`; elsewhere one call on the view ``(N/V, V*C, ...)`` serves all devices without a copy.
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
            y, mean, var = _SyncBatchNorm.apply(view, weight, bias, self.eps)
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
    """Whether the norms of ``module`` are faster in that layout on a CPU: the kernels of :mod:`eman.trainers.fused`
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


def _wide(x: Tensor) -> Tensor:
    """At least float32: statistics are not taken in half precision."""
    return x if x.dtype == torch.float64 else x.float()


class _SyncBatchNorm(torch.autograd.Function):
    """Batch normalization over all workers: one gather forward, one reduction backward."""

    @staticmethod
    def forward(ctx, x, weight_C, bias_C, eps):  # type: ignore[no-untyped-def]
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        x32 = _wide(x)
        count = x.numel() // x.shape[1]
        local_var_C, local_mean_C = torch.var_mean(x32, axes, correction=0)
        parts = [x32.new_empty(2, x.shape[1]) for _ in range(distributed.workers())]
        dist.all_gather(parts, torch.stack([local_mean_C, local_var_C]))
        mean_WC, var_WC = torch.stack(parts).unbind(1)
        mean_C = mean_WC.mean(0)
        var_C = var_WC.mean(0) + (mean_WC - mean_C).square().mean(0)  # workers hold equally many samples
        inverse_C = torch.rsqrt(var_C + eps)
        normalized = (x32 - mean_C.view(shape)) * inverse_C.view(shape)
        ctx.save_for_backward(normalized, weight_C, inverse_C)
        ctx.axes, ctx.shape, ctx.total, ctx.dtype = axes, shape, count * distributed.workers(), x.dtype
        unbiased_C = var_C * (ctx.total / max(ctx.total - 1, 1))
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        y = normalized * weight_C.view(shape) + bias_C.view(shape)
        return y.to(x.dtype), mean_C, unbiased_C

    @staticmethod
    def backward(ctx, grad_y, _mean, _var):  # type: ignore[no-untyped-def]
        normalized, weight_C, inverse_C = ctx.saved_tensors
        grad = _wide(grad_y)
        grad_bias_C = grad.sum(ctx.axes)
        grad_weight_C = (grad * normalized).sum(ctx.axes)
        sums = torch.stack([grad_bias_C, grad_weight_C])
        dist.all_reduce(sums)
        mean_grad_C, mean_product_C = sums / ctx.total
        scale_C = weight_C * inverse_C
        grad_x = (grad - mean_grad_C.view(ctx.shape) - normalized * mean_product_C.view(ctx.shape)) * scale_C.view(
            ctx.shape
        )
        return grad_x.to(ctx.dtype), grad_weight_C, grad_bias_C, None


def groups_for(kind: str, channels: int, *, vectors: bool) -> int:
    """Groups of the group normalization that stands for ``gn``, ``in`` or ``ln``.

    ``gn`` takes the official code's 32 groups, fewer where a group would hold a single channel. ``ln`` is one group:
    over channels and space (Section 2). ``in`` is one group a channel; on a vector, where a channel is a single number
    and instance norm would erase it, layer norm stands in: of the norms that look at one sample it is the plainest.
    """
    match kind:
        case "gn":
            return math.gcd(32, max(channels // 2, 1))
        case "in" if not vectors:
            return channels
        case "in" | "ln":
            return 1
    raise unknown("norm", kind, STUDENT_NORMS)


def convert_norm(
    module: nn.Module, kind: str, *, devices: int = 1, proxy_momentum: float = 0.9, device_statistics: str = "device0"
) -> nn.Module:
    """Replaces every batch normalization in ``module`` by the norm named ``kind``.

    It serves our networks and anybody's: build with plain ``BatchNorm``, then convert, before training.

    Args:
        module: Any module; it is changed in place (and returned, since it may itself be a batch norm).
        kind: ``bn``, ``syncbn``, ``gn``, ``in`` or ``ln``.
        devices: Devices that this worker hosts.
        proxy_momentum: alpha of Eq. (4).
        device_statistics: ``"device0"`` or ``"mean"``, see :class:`DeviceBatchNorm`.

    Returns:
        The module, with learned weights and statistics kept where the new norm has them.

    Raises:
        UserError: There is no such kind.
    """
    if kind not in STUDENT_NORMS:
        raise unknown("norm", kind, STUDENT_NORMS)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        new: nn.Module
        if kind in ("bn", "syncbn"):
            new = DeviceBatchNorm(
                module.num_features,
                devices=devices,
                sync=kind == "syncbn",
                eps=module.eps,
                momentum=1 - proxy_momentum,
                device_statistics=device_statistics,
            )
            new.load_state_dict(module.state_dict())
        else:
            groups = groups_for(kind, module.num_features, vectors=isinstance(module, nn.BatchNorm1d))
            new = nn.GroupNorm(groups, module.num_features, eps=module.eps)
            if module.affine:
                new.load_state_dict({"weight": module.weight, "bias": module.bias})
        return new.to(module.weight.device if module.affine else "cpu")
    for name, child in module.named_children():
        setattr(
            module,
            name,
            convert_norm(
                child, kind, devices=devices, proxy_momentum=proxy_momentum, device_statistics=device_statistics
            ),
        )
    return module


def batch_norms(module: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """Every batch normalization in ``module``, stock or ours, that keeps statistics."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            yield child


def batch_statistics(layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of a layer's input, as the layer's own training mode would have kept them."""
    x = _wide(x.detach())
    axes = [0, *range(2, x.dim())]
    devices, sync, source = (
        (layer.devices, layer.sync, layer.device_statistics)
        if isinstance(layer, DeviceBatchNorm)
        else (1, False, "device0")
    )
    if sync or devices == 1:
        var_C, mean_C = torch.var_mean(x, axes)
    elif source == "device0":
        var_C, mean_C = torch.var_mean(x[::devices], axes)
    else:
        var_VC, mean_VC = torch.var_mean(x.unflatten(0, (-1, devices)), [0, *range(3, x.dim() + 1)])
        var_C, mean_C = var_VC.mean(0), mean_VC.mean(0)
    return mean_C, var_C


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Gives all workers the same running statistics: device 0's from worker 0, or the mean over workers.

    The training loop calls it before the teacher moves, in place of DDP's buffer broadcast, which would also carry
    MoCo's queue (33 MB a step) and overwrite what a teacher has collected.
    """
    if distributed.workers() == 1:
        return
    layers = [layer for layer in batch_norms(module) if isinstance(layer, DeviceBatchNorm) and not layer.sync]
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat(buffers)
    if layers[0].device_statistics == "mean":
        distributed.mean_over_workers(flat)
    else:
        dist.broadcast(flat, 0)
    for buffer, part in zip(buffers, flat.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(part)


@torch.no_grad()
def reset_statistics(module: nn.Module) -> None:
    """Puts running statistics back to 0 and 1, so that they can be set by plain averages over some batches."""
    for layer in batch_norms(module):
        layer.reset_running_stats()


def check_names(student_norm: str, teacher_norm: str) -> None:
    """Raises :class:`UserError` unless both names are known."""
    if student_norm not in STUDENT_NORMS:
        raise unknown("student_norm", student_norm, STUDENT_NORMS)
    if teacher_norm not in TEACHER_NORMS:
        raise unknown("teacher_norm", teacher_norm, TEACHER_NORMS)
    needs_statistics = TEACHER_NORMS[teacher_norm].statistics != "own"
    if needs_statistics and student_norm not in ("bn", "syncbn"):
        raise UserError(
            f"teacher_norm is {teacher_norm!r}, which lives on batch statistics, and student_norm is "
            f"{student_norm!r}, which keeps none; give student_norm bn or syncbn."
        )
