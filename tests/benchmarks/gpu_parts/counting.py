"""Floating-point operations and memory traffic of a step, counted from the operations that it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

#: Operations that only reserve memory or describe it.
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write if each reads every input once and writes every output once.

    Attributes:
        bytes: Of all operations. Fusing operations saves part of it.
        convolution_bytes: Of convolutions, forward and backward: the least if all else were fused into them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.convolution_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _FREE:
            return out
        inputs, outputs = list(_tensors((args, kwargs))), list(_tensors(out))
        in_place = name.endswith("_") or "out" in (kwargs or {})
        storages = {x.untyped_storage().data_ptr() for x in inputs}
        if not in_place and outputs and all(y.untyped_storage().data_ptr() in storages for y in outputs):
            return out  # a view
        if in_place and not outputs:  # a list of tensors is changed, the first argument
            outputs = list(_tensors(args[:1]))
        count = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs))
        self.bytes += count
        if "convolution" in name:
            self.convolution_bytes += count
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _bytes(x: Tensor) -> int:
    """Return the bytes of a tensor's memory; those of an expanded tensor count once."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@contextmanager
def _norm_kernels(traffic: Traffic) -> Iterator[None]:
    """Count what the project's batch norm kernels for a GPU read and write, which PyTorch does not see."""
    if not torch.cuda.is_available():
        yield
        return
    from eman.trainers.accel import gpu

    def forward(x: Tensor, weight: Tensor, bias: Tensor, devices: int, eps: float, residual: Any, relu: bool) -> Any:
        traffic.bytes += (3 if residual is None else 4) * _bytes(x)
        return before["forward"](x, weight, bias, devices, eps, residual, relu)

    def affine(x: Tensor, scale: Tensor, shift: Tensor, residual: Any, relu: bool) -> Any:
        traffic.bytes += (2 if residual is None else 3) * _bytes(x)
        return before["affine"](x, scale, shift, residual, relu)

    def backward(grad: Tensor, x: Tensor, y: Any, weight: Tensor, statistics: Any, residual: bool) -> Any:
        traffic.bytes += (8 if residual and y is not None else 5) * _bytes(x)
        return before["backward"](grad, x, y, weight, statistics, residual)

    ours = {"forward": forward, "affine": affine, "backward": backward}
    before = {name: getattr(gpu, name) for name in ours}
    try:
        for name, function in ours.items():
            setattr(gpu, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(gpu, name, function)


def count(step: Callable[[], Any]) -> dict[str, float]:
    """Count one step's floating-point operations and bytes."""
    with FlopCounterMode(display=False) as flops, Traffic() as traffic, _norm_kernels(traffic):
        step()
    return {
        "tflop": flops.get_total_flops() / 1e12,
        "gb": traffic.bytes / 1e9,
        "convolution_gb": traffic.convolution_bytes / 1e9,
    }
