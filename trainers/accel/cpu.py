"""Batch normalization over devices on a CPU: passes tensors to the kernels that Numba compiles.

The kernels use one thread. Numba compiles them on first use, in seconds per data type, and keeps the machine code on
disk.

Shapes: N samples, V devices, L pixels, C channels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.trainers.accel import kernels

Array = np.ndarray[Any, Any]


def forward(
    x: Tensor, weight_C: Tensor, bias_C: Tensor, devices: int, eps: float, residual: Tensor | None, relu: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Normalize; return the result, and mean, unbiased variance and inverse deviation, ``(V, C)`` each."""
    y = torch.empty_like(x)
    statistics = weight_C.new_empty(3, devices, x.shape[1]).unbind()
    vectors = (_array(weight_C), _array(bias_C), *(v.numpy() for v in statistics))
    kernels.forward(_array(x), _residual(residual, x), _array(y), *vectors, eps, relu)
    return y, statistics


def backward(
    grad: Tensor, x: Tensor, y: Tensor | None, weight_C: Tensor, statistics: tuple[Tensor, ...], residual: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of input, weight, bias and shortcut; ``y`` is the output if ReLU was applied."""
    mean_VC, _, inverse_VC = statistics
    if residual and y is not None:  # the shortcut needs the gradient of the sum, before ReLU
        grad, y = torch.ops.aten.threshold_backward(grad, y, 0), None
    grad_x, sums_VC, products_VC = torch.empty_like(x), torch.empty_like(mean_VC), torch.empty_like(mean_VC)
    vectors = (v.numpy() for v in (mean_VC, inverse_VC, sums_VC, products_VC))
    images = (_array(t) for t in (x, x if y is None else y, grad, grad_x))
    kernels.backward(*images, _array(weight_C), *vectors, y is not None)
    return grad_x, products_VC.sum(0), sums_VC.sum(0), grad if residual else None


def affine(x: Tensor, scale_C: Tensor, shift_C: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Return ``x scale + shift + residual``, after ReLU if ``relu``."""
    y = torch.empty_like(x)
    kernels.affine(_array(x), _residual(residual, x), _array(y), _array(scale_C), _array(shift_C), relu)
    return y


def _array(x: Tensor) -> Array:
    """View a tensor's memory as ``(N, L, C)``, or ``(C,)``; bfloat16 as its bits."""
    x = x.detach()
    if x.dim() > 1:
        x = x.unsqueeze(1) if x.dim() == 2 else x.permute(0, 2, 3, 1).flatten(1, 2)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _residual(residual: Tensor | None, x: Tensor) -> Array:
    """View the residual like ``x``; without one, an array of no samples."""
    return _array(x)[:0] if residual is None else _array(residual)
