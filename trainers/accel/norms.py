"""Batch normalization over devices, Eqs. (2) and (3), fused with the shortcut's addition and ReLU.

With PyTorch's batch norm, separate statistics per device need a copy in the fast memory format, channels-last, and
addition and ReLU further passes over memory. Kernels for the CPU and for GPUs work on that format directly.

Shapes: N samples, V devices, C channels.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eman.trainers.accel.available import has_triton
from eman.trainers.accel.width import LANES

_CPU_TYPES = (torch.bfloat16, torch.float32, torch.float64)
_GPU_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def serves(x: Tensor, weight: Tensor) -> bool:
    """Return whether kernels support this input's device, data type, number of channels and memory format."""
    if torch.compiler.is_compiling() or not x.is_contiguous(memory_format=_layout(x)):
        return False
    if x.device.type == "cuda":
        return x.dim() == 4 and x.dtype in _GPU_TYPES and weight.dtype == torch.float32 and has_triton()
    return (
        x.device.type == "cpu"
        and x.dim() in (2, 4)
        and x.dtype in _CPU_TYPES
        and weight.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        and x.shape[1] % LANES == 0
    )


def batch_norm(
    x: Tensor, weight_C: Tensor, bias_C: Tensor, devices: int, eps: float, residual: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize each device's samples with their own statistics, add ``residual``, apply ReLU if ``relu``.

    Args:
        x: ``(N, C)`` or ``(N, C, H, W)``, such that :func:`serves` is true.
        weight_C: float32, or float64 if ``x`` is.
        bias_C: Same type as ``weight_C``.
        devices: V; sample ``j`` belongs to device ``j mod V``.
        eps: Epsilon of Eq. (3).
        residual: Same shape and type as ``x``, or ``None``.
        relu: Whether to apply ReLU.

    Returns:
        The result, with the type and memory format of ``x``; each device's mean and unbiased variance, ``(V, C)``,
        without gradient.
    """
    return _BatchNorm.apply(x, weight_C, bias_C, devices, eps, residual, relu)  # type: ignore[no-any-return]


@torch.no_grad()
def affine(x: Tensor, scale_C: Tensor, shift_C: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Return ``x scale + shift + residual``, after ReLU if ``relu``: Eq. (8), without gradient.

    Arguments and result are as in :func:`batch_norm`.
    """
    y: Tensor = _backend(x).affine(x, scale_C, shift_C, _like(residual, x), relu)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_C, bias_C, devices, eps, residual, relu):  # type: ignore[no-untyped-def]
        y, statistics = _backend(x).forward(x, weight_C, bias_C, devices, eps, _like(residual, x), relu)
        mean_VC, var_VC = statistics[:2]
        ctx.save_for_backward(x, y if relu else None, weight_C, *statistics)
        ctx.residual = residual is not None
        ctx.mark_non_differentiable(mean_VC, var_VC)
        return y, mean_VC, var_VC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _mean, _var):  # type: ignore[no-untyped-def]
        x, y, weight_C, *statistics = ctx.saved_tensors
        gradients = _backend(x).backward(_like(grad, x), x, y, weight_C, statistics, ctx.residual)
        grad_x, grad_weight_C, grad_bias_C, grad_residual = gradients
        return grad_x, grad_weight_C, grad_bias_C, None, None, grad_residual, None


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def _like(other: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a tensor in the type and memory format of ``x``."""
    return None if other is None else other.to(x.dtype).contiguous(memory_format=_layout(x))


def _backend(x: Tensor) -> ModuleType:
    """Import the kernels for a device on first use: Numba and Triton are slow to import, and one of them suffices."""
    if x.device.type == "cuda":
        from eman.trainers.accel import gpu

        return gpu
    from eman.trainers.accel import cpu

    return cpu
