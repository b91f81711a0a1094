"""The kernels of :mod:`eman.trainers.fused`, compiled by Numba. See there for what they compute.

A vector of K lanes (64, or a multiple of the channels near it) is worked on at once; lane ``k`` holds channel
``k mod C``, and a name ending in K is a value for each lane. Arrays named ``..._BK`` hold those of a block of devices.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.extending import intrinsic, overload

#: Division by zero gives infinity or NaN. The compiler may neither reorder sums nor contract products: it would do so
#: in some copies of a loop and not in others, and where memory lies decides which copy runs. The lanes are enough to
#: fill its vectors.
_IEEE = {"error_model": "numpy"}

#: Of the narrowest type, so that it widens nothing.
_ZERO = np.float32(0)


@intrinsic
def _as_float(_context, _bits):
    def code(_target, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def _as_bits(_context, _value):
    def code(_target, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), code


@intrinsic
def _pointer(_context, _address):
    def code(_target, builder, _signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), code


@intrinsic
def _take(_context, _address):
    """The number at an address, which is one higher afterwards; threads take turns."""

    def code(_target, builder, _signature, args):
        counter = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), code


def _widened(_stored):
    """A stored value as a number."""


def _narrowed(_number, _like):
    """A number as it is stored beside ``_like``: bfloat16 takes the nearest, of two the even one."""


@overload(_widened, inline="always")
def _(stored):
    if isinstance(stored, types.Integer):
        return lambda stored: _as_float(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


@overload(_narrowed, inline="always")
def _(number, like):
    if isinstance(like, types.Integer):

        def rounded(number, like):
            bits = _as_bits(number)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return rounded
    return lambda number, like: number


@njit(**_IEEE)
def _fold(total_K, channels):
    """Adds up the lanes of each channel, in its first."""
    for start in range(channels, len(total_K), channels):
        for c in range(channels):
            total_K[c] += total_K[start + c]


@njit(**_IEEE)
def _repeat(table_K, channels):
    """Gives all lanes of a channel the value of its first."""
    for start in range(channels, len(table_K), channels):
        for c in range(channels):
            table_K[start + c] = table_K[c]


@njit(**_IEEE)
def _tabulate(v, C, weight, bias, mean, inverse, scale_K, shift_K):
    """Scale and shift of Eq. (3) for device v."""
    for c in range(C):
        scale_K[c] = inverse[v * C + c] * weight[c]
        shift_K[c] = bias[c] - mean[v * C + c] * scale_K[c]
    _repeat(scale_K, C)
    _repeat(shift_K, C)


@njit(**_IEEE)
def _add_sum(x, begin, end, sum_K, total_K):
    """Adds ``x`` from begin to end to the totals."""
    sum_K[:] = 0
    for start in range(begin, end, len(sum_K)):
        x_K = x[start : min(start + len(sum_K), end)]
        for k in range(len(x_K)):
            sum_K[k] += _widened(x_K[k])
    for k in range(len(sum_K)):
        total_K[k] += sum_K[k]


@njit(**_IEEE)
def _add_squares(x, begin, end, mean_K, sum_K, total_K):
    """Adds the squared distances from the mean to the totals."""
    sum_K[:] = 0
    for start in range(begin, end, len(sum_K)):
        x_K = x[start : min(start + len(sum_K), end)]
        for k in range(len(x_K)):
            rest = _widened(x_K[k]) - mean_K[k]
            sum_K[k] += rest * rest
    for k in range(len(sum_K)):
        total_K[k] += sum_K[k]


@njit(**_IEEE)
def _scale(x, y, begin, end, scale_K, shift_K, floor):
    """``max(x scale + shift, floor)``; NaN stays NaN."""
    width = len(scale_K)
    for start in range(begin, end, width):
        stop = min(start + width, end)
        x_K, y_K = x[start:stop], y[start:stop]
        for k in range(len(x_K)):
            value = _widened(x_K[k]) * scale_K[k] + shift_K[k]
            y_K[k] = _narrowed(floor if value < floor else value, x_K[k])


@njit(**_IEEE)
def _scale_and_add(x, residual, y, begin, end, scale_K, shift_K, floor):
    """``max(x scale + shift + residual, floor)``; NaN stays NaN."""
    width = len(scale_K)
    for start in range(begin, end, width):
        stop = min(start + width, end)
        x_K, r_K, y_K = x[start:stop], residual[start:stop], y[start:stop]
        for k in range(len(x_K)):
            value = _widened(x_K[k]) * scale_K[k] + shift_K[k] + _widened(r_K[k])
            y_K[k] = _narrowed(floor if value < floor else value, x_K[k])


@njit(**_IEEE)
def _finish(x, residual, y, begin, end, scale_K, shift_K, floor):
    if len(residual):
        _scale_and_add(x, residual, y, begin, end, scale_K, shift_K, floor)
    else:
        _scale(x, y, begin, end, scale_K, shift_K, floor)


@njit(**_IEEE)
def _forward(first, last, n, V, L, C, x, residual, y, weight, bias, mean, var, inverse, eps, floor, lanes, block):
    """Eqs. (2) and (3) for the devices from first to last."""
    row, width, count = L * C, C * max(1, lanes // C), n * L
    sum_K, total_BK = np.empty(width, weight.dtype), np.empty((block, width))
    mean_BK, scale_BK = np.empty((block, width), weight.dtype), np.empty((block, width), weight.dtype)
    shift_BK = np.empty((block, width), weight.dtype)
    for begin in range(first, last, block):
        devices = min(block, last - begin)
        total_BK[:] = 0
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _add_sum(x, at, at + row, sum_K, total_BK[b])
        for b in range(devices):
            _fold(total_BK[b], C)
            for c in range(C):
                mean_BK[b, c] = mean[(begin + b) * C + c] = total_BK[b, c] / count
            _repeat(mean_BK[b], C)
        total_BK[:] = 0
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _add_squares(x, at, at + row, mean_BK[b], sum_K, total_BK[b])
        for b in range(devices):
            _fold(total_BK[b], C)
            for c in range(C):
                v = (begin + b) * C + c
                var[v] = total_BK[b, c] / (count - 1)
                inverse[v] = 1 / np.sqrt(total_BK[b, c] / count + eps)
            _tabulate(begin + b, C, weight, bias, mean, inverse, scale_BK[b], shift_BK[b])
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _finish(x, residual, y, at, at + row, scale_BK[b], shift_BK[b], floor)


@njit(**_IEEE)
def _add_gradients(x, grad, begin, end, mean_K, scale_K, shift_K, floor, sum_K, product_K, total_K, products_K):
    """Adds the gradient that passes ReLU, and its products with the distance from the mean, to the totals."""
    width = len(sum_K)
    sum_K[:] = 0
    product_K[:] = 0
    for start in range(begin, end, width):
        stop = min(start + width, end)
        x_K, g_K = x[start:stop], grad[start:stop]
        for k in range(len(x_K)):
            value = _widened(x_K[k])
            g = _ZERO if value * scale_K[k] + shift_K[k] <= floor else _widened(g_K[k])
            sum_K[k] += g
            product_K[k] += g * (value - mean_K[k])
    for k in range(width):
        total_K[k] += sum_K[k]
        products_K[k] += product_K[k]


@njit(**_IEEE)
def _keep_gradients(x, y, grad, passed, begin, end):
    """The gradient where ``y`` is positive: that of the sum before ReLU."""
    x_K, y_K, g_K, p_K = x[begin:end], y[begin:end], grad[begin:end], passed[begin:end]
    for k in range(end - begin):
        p_K[k] = _narrowed(_ZERO if _widened(y_K[k]) <= _ZERO else _widened(g_K[k]), x_K[k])


@njit(**_IEEE)
def _scale_gradients(x, grad, grad_x, begin, end, scale_K, shift_K, floor, b_K, c_K):
    """``scale g + b x + c``, with g the gradient that passes ReLU."""
    width = len(b_K)
    for start in range(begin, end, width):
        stop = min(start + width, end)
        x_K, g_K, d_K = x[start:stop], grad[start:stop], grad_x[start:stop]
        for k in range(len(x_K)):
            value = _widened(x_K[k])
            g = _ZERO if value * scale_K[k] + shift_K[k] <= floor else _widened(g_K[k])
            d_K[k] = _narrowed(g * scale_K[k] + value * b_K[k] + c_K[k], x_K[k])


@njit(**_IEEE)
def _backward(
    first, last, n, V, L, C, x, y, grad, passed, grad_x,
    weight, bias, mean, inverse, sums, products, floor, lanes, block,
):  # fmt: skip
    """The gradient for the devices from first to last.

    With r the inverse deviation, s and p the sums of g and of g (x - mean) over a device's samples: dw = r p, db = s
    and dx = w r (g - s / count - (x - mean) r^2 p / count).
    """
    row, width, count = L * C, C * max(1, lanes // C), n * L
    sum_K, product_K = np.empty(width, weight.dtype), np.empty(width, weight.dtype)
    total_BK, products_BK = np.empty((block, width)), np.empty((block, width))
    mean_BK, scale_BK = np.empty((block, width), weight.dtype), np.empty((block, width), weight.dtype)
    shift_BK = np.empty((block, width), weight.dtype)
    b_BK, c_BK = np.empty((block, width), weight.dtype), np.empty((block, width), weight.dtype)
    if len(passed):  # that ReLU is done with before it is the norm's turn
        floor = floor - np.inf
    for begin in range(first, last, block):
        devices = min(block, last - begin)
        total_BK[:] = 0
        products_BK[:] = 0
        for b in range(devices):
            mean_BK[b, :C] = mean[(begin + b) * C : (begin + b + 1) * C]
            _repeat(mean_BK[b], C)
            _tabulate(begin + b, C, weight, bias, mean, inverse, scale_BK[b], shift_BK[b])
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                if len(passed):
                    _keep_gradients(x, y, grad, passed, at, at + row)
                _add_gradients(
                    x, passed if len(passed) else grad, at, at + row, mean_BK[b], scale_BK[b], shift_BK[b], floor,
                    sum_K, product_K, total_BK[b], products_BK[b],
                )  # fmt: skip
        for b in range(devices):
            _fold(total_BK[b], C)
            _fold(products_BK[b], C)
            for c in range(C):
                v = (begin + b) * C + c
                r = inverse[v]
                sums[v] = total_BK[b, c]
                products[v] = products_BK[b, c] * r
                b_BK[b, c] = -scale_BK[b, c] * r * r * products_BK[b, c] / count
                c_BK[b, c] = -scale_BK[b, c] * total_BK[b, c] / count - b_BK[b, c] * mean[v]
            _repeat(b_BK[b], C)
            _repeat(c_BK[b], C)
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _scale_gradients(
                    x, passed if len(passed) else grad, grad_x, at, at + row, scale_BK[b], shift_BK[b], floor,
                    b_BK[b], c_BK[b],
                )  # fmt: skip


def compiled(stored: Any, real: Any, job: np.dtype[Any], lanes: int, block: int, *, keep: bool) -> dict[str, Any]:
    """The kernels as C functions of a job's address, each of which takes parts of the devices until none is left.

    Args:
        stored: NumPy's type of the tensors' memory.
        real: NumPy's type of statistics, weights and sums.
        job: The record that a kernel is told.
        lanes: K.
        block: B.
        keep: Whether to keep the machine code on disk, beside this file or in the user's cache.

    Raises:
        RuntimeError: ``keep`` is true and there is no folder to write to.
    """
    signature = types.void(types.CPointer(from_dtype(job)))

    @cfunc(signature, cache=keep)
    def forward(told):
        job = carray(told, 1)[0]
        n, V, L, C = job.samples, job.devices, job.pixels, job.channels
        size = n * V * L * C
        x, y = carray(_pointer(job.x), size, stored), carray(_pointer(job.y), size, stored)
        residual = carray(_pointer(job.residual), size if job.residual else 0, stored)
        weight, bias = carray(_pointer(job.weight), C, real), carray(_pointer(job.bias), C, real)
        mean, var = carray(_pointer(job.mean), V * C, real), carray(_pointer(job.var), V * C, real)
        inverse = carray(_pointer(job.inverse), V * C, real)
        floor = real(0) if job.relu else real(-np.inf)
        while True:
            first = _take(job.counter) * job.part
            if first >= V:
                return
            last = min(first + job.part, V)
            _forward(
                first, last, n, V, L, C, x, residual, y, weight, bias, mean, var, inverse, job.eps, floor, lanes, block
            )

    @cfunc(signature, cache=keep)
    def backward(told):
        job = carray(told, 1)[0]
        n, V, L, C = job.samples, job.devices, job.pixels, job.channels
        size = n * V * L * C
        x, grad = carray(_pointer(job.x), size, stored), carray(_pointer(job.grad), size, stored)
        grad_x = carray(_pointer(job.grad_x), size, stored)
        y = carray(_pointer(job.y), size if job.y else 0, stored)
        passed = carray(_pointer(job.passed), size if job.passed else 0, stored)
        weight, bias = carray(_pointer(job.weight), C, real), carray(_pointer(job.bias), C, real)
        mean, inverse = carray(_pointer(job.mean), V * C, real), carray(_pointer(job.inverse), V * C, real)
        sums, products = carray(_pointer(job.sums), V * C, real), carray(_pointer(job.products), V * C, real)
        floor = real(0) if job.relu else real(-np.inf)
        while True:
            first = _take(job.counter) * job.part
            if first >= V:
                return
            _backward(
                first, min(first + job.part, V), n, V, L, C, x, y, grad, passed, grad_x,
                weight, bias, mean, inverse, sums, products, floor, lanes, block,
            )  # fmt: skip

    @cfunc(signature, cache=keep)
    def affine(told):
        job = carray(told, 1)[0]
        C = job.channels
        row = job.samples * job.pixels * C
        size = job.devices * row
        x, y = carray(_pointer(job.x), size, stored), carray(_pointer(job.y), size, stored)
        residual = carray(_pointer(job.residual), size if job.residual else 0, stored)
        scale_K, shift_K = np.empty(C * max(1, lanes // C), real), np.empty(C * max(1, lanes // C), real)
        scale_K[:C] = carray(_pointer(job.weight), C, real)
        shift_K[:C] = carray(_pointer(job.bias), C, real)
        _repeat(scale_K, C)
        _repeat(shift_K, C)
        floor = real(0) if job.relu else real(-np.inf)
        while True:
            first = _take(job.counter) * job.part
            if first >= job.devices:
                return
            last = min(first + job.part, job.devices)
            _finish(x, residual, y, first * row, last * row, scale_K, shift_K, floor)

    return {"forward": forward, "backward": backward, "affine": affine}
