"""Batch normalization over devices on a CPU, Eqs. (2) and (3), fused with the shortcut's addition and ReLU.

With PyTorch's batch norm, separate statistics per device need a copy in its fast memory format, channels-last. The
kernels work on that format directly, with few passes over memory, on one thread. Numba compiles them on first use, in
seconds per data type, and keeps the machine code on disk.

Shapes: N samples, V devices, L pixels, C channels.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eman.trainers.accel.width import LANES

_TYPES = (torch.bfloat16, torch.float32, torch.float64)

Array = np.ndarray[Any, Any]


def serves(x: Tensor, weight: Tensor) -> bool:
    """Return whether the kernels support this input's device, data type, number of channels and memory format."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in _TYPES
        and weight.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        and x.dim() in (2, 4)
        and x.shape[1] % LANES == 0
        and x.is_contiguous(memory_format=_layout(x))
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
    y = torch.empty_like(x)
    _kernels().affine(_array(x), _residual(residual, x), _array(y), _array(scale_C), _array(shift_C), relu)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_C, bias_C, devices, eps, residual, relu):  # type: ignore[no-untyped-def]
        y = torch.empty_like(x)
        mean_VC, var_VC, inverse_VC = weight_C.new_empty(3, devices, x.shape[1]).unbind()
        vectors = (_array(v) for v in (weight_C, bias_C))
        statistics = (v.numpy() for v in (mean_VC, var_VC, inverse_VC))
        _kernels().forward(_array(x), _residual(residual, x), _array(y), *vectors, *statistics, eps, relu)
        ctx.save_for_backward(x, y if relu else None, weight_C, mean_VC, inverse_VC)
        ctx.residual = residual is not None
        ctx.mark_non_differentiable(mean_VC, var_VC)
        return y, mean_VC, var_VC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _mean, _var):  # type: ignore[no-untyped-def]
        x, y, weight_C, mean_VC, inverse_VC = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=_layout(x))
        if ctx.residual and y is not None:  # the shortcut needs the gradient of the sum, before ReLU
            grad, y = torch.ops.aten.threshold_backward(grad, y, 0), None
        grad_x, sums_VC, products_VC = torch.empty_like(x), torch.empty_like(mean_VC), torch.empty_like(mean_VC)
        vectors = (v.numpy() for v in (mean_VC, inverse_VC, sums_VC, products_VC))
        images = (_array(t) for t in (x, x if y is None else y, grad, grad_x))
        _kernels().backward(*images, _array(weight_C), *vectors, y is not None)
        return grad_x, products_VC.sum(0), sums_VC.sum(0), None, None, grad if ctx.residual else None, None


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def _array(x: Tensor) -> Array:
    """View a tensor's memory as ``(N, L, C)``, or ``(C,)``; bfloat16 as its bits."""
    x = x.detach()
    if x.dim() > 1:
        x = x.unsqueeze(1) if x.dim() == 2 else x.permute(0, 2, 3, 1).flatten(1, 2)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _residual(residual: Tensor | None, x: Tensor) -> Array:
    """View the residual in the layout of ``x``; without one, an array of no samples."""
    return _array(x)[:0] if residual is None else _array(residual.to(x.dtype).contiguous(memory_format=_layout(x)))


@cache
def _kernels() -> Any:
    """Import the kernels on first use: importing Numba is slow, and a GPU does not need it."""
    from eman.trainers.accel import kernels

    return kernels
