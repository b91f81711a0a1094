"""Batch normalization over devices on a CPU in few passes over memory: statistics, Eqs. (2) and (3), and what follows a
norm in a residual network, the shortcut's addition and ReLU.

PyTorch's own batch norm knows nothing of devices unless their channels are put side by side, which in its fast layout,
channels last, takes a copy. The kernels here (:mod:`eman.trainers.accel.kernels`) work on that layout, in memory
``(I, V, L, C)``: sample ``i V + v`` belongs to device ``v``. Sums are taken in an order that does not depend on the
number of threads. Numba compiles the kernels when they are first needed, some seconds a type, and keeps them on disk.

Shapes: N samples, V devices, I = N / V samples of a device, L pixels, C channels.
"""

import ctypes
import logging
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Devices that take turns, so that memory is read in order.
_BLOCK = 8


class _Job(ctypes.Structure):
    """What a kernel is told: sizes, how many devices are a part of the work, how many parts are taken and where that is
    counted, and addresses.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "devices", "pixels", "channels", "relu", "part", "taken")),
        *((name, ctypes.c_int64) for name in ("counter", "x", "residual", "y", "grad", "passed", "grad_x")),
        *((name, ctypes.c_int64) for name in ("weight", "bias", "mean", "var", "inverse", "sums", "products")),
        ("eps", ctypes.c_double),
    )


#: Memory and arithmetic of each type. bfloat16 is the upper half of a float32's bits.
_TYPES = {
    torch.bfloat16: (np.uint16, np.float32),
    torch.float32: (np.float32, np.float32),
    torch.float64: (np.float64, np.float64),
}

log = logging.getLogger("eman")

Compiled = TypeVar("Compiled")


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take this input: on the CPU, of a type, width and layout they know, not being compiled."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in _TYPES
        and weight.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        and x.dim() in (2, 4)
        and x.shape[1] % lanes() == 0
        and x.is_contiguous(memory_format=_layout(x))
    )


def batch_norm(
    x: Tensor, weight_C: Tensor, bias_C: Tensor, devices: int, eps: float, residual: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes each device's samples by their own statistics; adds ``residual``; takes the positive part if ``relu``.

    Args:
        x: ``(N, C)`` or ``(N, C, H, W)``, such that :func:`serves` is true.
        weight_C: Float32, or float64 if ``x`` is.
        bias_C: Likewise.
        devices: V; sample ``j`` belongs to device ``j mod V``.
        eps: Epsilon of Eq. (3).
        residual: Of the shape and type of ``x``, or ``None``.
        relu: Whether ReLU comes last.

    Returns:
        The result, of the type and layout of ``x``; mean and unbiased variance of each device, ``(V, C)``, without
        gradient.
    """
    return _BatchNorm.apply(x, weight_C, bias_C, devices, eps, residual, relu)  # type: ignore[no-any-return]


@torch.no_grad()
def affine(x: Tensor, scale_C: Tensor, shift_C: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """``x scale + shift``, plus ``residual``, and its positive part if ``relu``: Eq. (8). It has no gradient.

    Arguments and result as in :func:`batch_norm`.
    """
    y = torch.empty_like(x)
    _run("affine", x, len(x), relu, 0.0, residual=_like(residual, x), y=y, weight=scale_C, bias=shift_C)
    return y


@cache
def lanes() -> int:
    """Channels that are worked on at once; a tensor must have a multiple of them."""
    from eman.trainers.accel import kernels

    return kernels.LANES


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def _like(given: Tensor | None, x: Tensor) -> Tensor | None:
    """A tensor in the type and layout of ``x``."""
    return None if given is None else given.to(x.dtype).contiguous(memory_format=_layout(x))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_C, bias_C, devices, eps, residual, relu):  # type: ignore[no-untyped-def]
        y = torch.empty_like(x)
        mean_VC, var_VC, inverse_VC = weight_C.new_empty(3, devices, x.shape[1]).unbind()
        told = {"weight": weight_C, "bias": bias_C, "mean": mean_VC, "inverse": inverse_VC}
        _run("forward", x, devices, relu, eps, residual=_like(residual, x), y=y, var=var_VC, **told)
        ctx.save_for_backward(x, y if residual is not None and relu else None, weight_C, bias_C, mean_VC, inverse_VC)
        ctx.devices, ctx.relu, ctx.residual = devices, relu, residual is not None
        ctx.mark_non_differentiable(mean_VC, var_VC)
        return y, mean_VC, var_VC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _mean, _var):  # type: ignore[no-untyped-def]
        x, y, weight_C, bias_C, mean_VC, inverse_VC = ctx.saved_tensors
        grad = _like(grad, x)
        grad_x, passed = torch.empty_like(x), None if y is None else torch.empty_like(x)
        sums_VC, products_VC = torch.empty_like(mean_VC), torch.empty_like(mean_VC)
        told = {"weight": weight_C, "bias": bias_C, "mean": mean_VC, "inverse": inverse_VC, "grad": grad, "y": y}
        given = {"grad_x": grad_x, "passed": passed, "sums": sums_VC, "products": products_VC}
        _run("backward", x, ctx.devices, ctx.relu, 0.0, **told, **given)
        grad_residual = (grad if passed is None else passed) if ctx.residual else None
        return grad_x, products_VC.sum(0), sums_VC.sum(0), None, None, grad_residual, None


def _run(kernel: str, x: Tensor, devices: int, relu: bool, eps: float, **tensors: Tensor | None) -> None:
    """Runs a kernel on as many threads as PyTorch would take."""
    samples, channels = x.shape[:2]
    threads = min(torch.get_num_threads(), devices)
    job = _Job(
        samples=samples // devices,
        devices=devices,
        pixels=x.numel() // (samples * channels),
        channels=channels,
        relu=relu,
        part=devices if threads == 1 else -(-devices // (4 * threads)),
        eps=eps,
        x=x.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None},
    )
    address = ctypes.addressof(job)
    job.counter = address + _Job.taken.offset
    function, team = _compiled(x.dtype)[kernel], _team()
    if threads == 1 or team is None:
        function.ctypes(address)
    else:
        team(function.address, address, threads, 0)


@cache
def _team() -> Any:
    """What begins a parallel region in the OpenMP library that PyTorch has loaded: its threads are there already, and a
    second pool would fight with them over the cores. ``None`` where there is none: kernels then take one thread.
    """
    for path in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
        begin = ctypes.CDLL(str(path)).GOMP_parallel
        begin.argtypes, begin.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return begin
    return None


@cache
def _compiled(dtype: torch.dtype) -> dict[str, Any]:
    """The kernels for a type; the first call of a process loads or compiles them."""
    from eman.trainers.accel import kernels

    stored, real = _TYPES[dtype]
    return kept(partial(kernels.compiled, stored, real, np.dtype(_Job), _BLOCK))


def kept(compiled: Callable[..., Compiled]) -> Compiled:
    """What a function makes that compiles with Numba, its machine code kept on disk if there is a folder for it.

    Args:
        compiled: It takes ``keep``, and raises :class:`RuntimeError` if that is true and there is none.
    """
    try:
        return compiled(keep=True)
    except RuntimeError as error:
        log.warning("the compiled kernels cannot be kept (%s); NUMBA_CACHE_DIR names a folder for them", error)
        return compiled(keep=False)
