"""The kernels of :mod:`eman.trainers.accel.fused`, compiled by Numba. See there for what they compute.

They are written in lanes: 16 numbers side by side, those of 16 neighbouring channels of a pixel, which the compiler
keeps in vector registers. Loops over single numbers would be left to its vectorizer, which cannot know that the arrays
are different ones and makes code that is several times slower. A tile is as many pixels as the fastest cache holds;
sums are taken in the tensors' arithmetic over a tile and in float64 over tiles. Arrays named ``..._BC`` hold values of
the channels for each of a block of devices.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.extending import intrinsic, models, overload, register_model

#: Division by zero gives infinity or NaN. The compiler may neither reorder sums nor contract products, so that results
#: do not depend on which processor or which copy of a loop computes them.
_IEEE = {"error_model": "numpy"}

#: Channels that are worked on at once. It stands in this file, whose changes make Numba compile anew.
LANES = 16

#: Numbers in a tile.
_TILE = 4096


class _Lanes(types.Type):  # type: ignore[misc]
    """The type of a variable that holds 16 floats or doubles."""

    def __init__(self, real: types.Float) -> None:
        self.real = real
        super().__init__(name=f"lanes of {real}")


@register_model(_Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, _vector(lanes.real))


def _vector(real: types.Type) -> ir.VectorType:
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.uint16: ir.IntType(16)}
    return ir.VectorType(kinds[real], LANES)


_WORDS = ir.VectorType(ir.IntType(32), LANES)


def _each(bits: int) -> ir.Constant:
    return ir.Constant(_WORDS, [bits] * LANES)


def _memory(context, builder, array_type, array, at):
    """A pointer to the lanes that begin at a place of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _vector(array_type.dtype).as_pointer())


def _bytes(array_type) -> int:
    return array_type.dtype.bitwidth // 8


def _rounded(builder, value):
    """The upper halves of the nearest bfloat16s, of two the even one; NaN stays NaN."""
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _each(16)), _each(1))
    up = builder.add(bits, builder.add(odd, _each(0x7FFF)))
    is_nan = builder.fcmp_unordered("uno", value, value)
    kept = builder.select(is_nan, builder.or_(bits, _each(0x400000)), up)
    return builder.trunc(builder.lshr(kept, _each(16)), _vector(types.uint16))


@intrinsic
def _load(_typing, array, at):
    """The lanes that begin at a place of an array; of bfloat16, whose bits are given, as floats."""

    def code(context, builder, signature, args):
        value = builder.load(_memory(context, builder, signature.args[0], *args), align=_bytes(array))
        if array.dtype != types.uint16:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _WORDS), _each(16)), _vector(types.float32))

    return _Lanes(types.float32 if array.dtype == types.uint16 else array.dtype)(array, at), code


@intrinsic
def _store(_typing, array, at, lanes):
    """Puts lanes into an array; as bfloat16 if it holds those."""

    def code(context, builder, signature, args):
        value = _rounded(builder, args[2]) if array.dtype == types.uint16 else args[2]
        builder.store(value, _memory(context, builder, signature.args[0], *args[:2]), align=_bytes(array))
        return context.get_dummy_value()

    return types.void(array, at, lanes), code


@intrinsic
def _add_to(_typing, totals, at, lanes):
    """Adds lanes to an array of float64."""

    def code(context, builder, signature, args):
        place = _memory(context, builder, signature.args[0], *args[:2])
        wide = _vector(types.float64)
        value = args[2] if lanes.real == types.float64 else builder.fpext(args[2], wide)
        builder.store(builder.fadd(builder.load(place, align=8), value), place, align=8)
        return context.get_dummy_value()

    return types.void(totals, at, lanes), code


@intrinsic
def _all(_typing, value):
    """Lanes that are all alike."""

    def code(_context, builder, _signature, args):
        vector = _vector(value)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(_WORDS, [0] * LANES))

    return _Lanes(value)(value), code


@intrinsic
def _at_least(_typing, value, floor):
    """The larger of two; NaN stays NaN."""

    def code(_context, builder, _signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

    return value(value, floor), code


@intrinsic
def _passes(_typing, gradient, value, floor):
    """The gradient where the value is above the floor or NaN, else 0."""

    def code(_context, builder, _signature, args):
        zero = ir.Constant(args[0].type, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<=", *args[1:]), zero, args[0])

    return gradient(gradient, value, floor), code


def _arithmetic(operation, instruction):
    @intrinsic
    def apply(_typing, a, b):
        return a(a, b), lambda _context, builder, _signature, args: getattr(builder, instruction)(*args)

    @overload(operation)
    def _(a, b):
        def compiled(a, b):
            return apply(a, b)

        return compiled if isinstance(a, _Lanes) and isinstance(b, _Lanes) else None


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_operation, _instruction)


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


@njit(**_IEEE)
def _tabulate(v, C, weight, bias, mean, inverse, scale_C, shift_C):
    """Scale and shift of Eq. (3) for device v."""
    for c in range(C):
        scale_C[c] = inverse[v * C + c] * weight[c]
        shift_C[c] = bias[c] - mean[v * C + c] * scale_C[c]


@njit(**_IEEE)
def _add_sum(x, begin, end, tile, zero, total_C):
    """Adds ``x`` from begin to end to the totals."""
    C = len(total_C)
    for first in range(begin, end, tile):
        last = min(first + tile, end)
        for c in range(0, C, LANES):
            total = _all(zero)
            for at in range(first + c, last, C):
                total = total + _load(x, at)
            _add_to(total_C, c, total)


@njit(**_IEEE)
def _add_squares(x, begin, end, tile, zero, mean_C, total_C):
    """Adds the squared distances from the mean to the totals."""
    C = len(total_C)
    for first in range(begin, end, tile):
        last = min(first + tile, end)
        for c in range(0, C, LANES):
            mean, total = _load(mean_C, c), _all(zero)
            for at in range(first + c, last, C):
                rest = _load(x, at) - mean
                total = total + rest * rest
            _add_to(total_C, c, total)


@njit(**_IEEE)
def _finish(x, residual, y, begin, end, tile, scale_C, shift_C, floor):
    """``max(x scale + shift + residual, floor)``; NaN stays NaN."""
    C, least = len(scale_C), _all(floor)
    for first in range(begin, end, tile):
        last = min(first + tile, end)
        for c in range(0, C, LANES):
            scale, shift = _load(scale_C, c), _load(shift_C, c)
            if len(residual):
                for at in range(first + c, last, C):
                    _store(y, at, _at_least(_load(x, at) * scale + shift + _load(residual, at), least))
            else:
                for at in range(first + c, last, C):
                    _store(y, at, _at_least(_load(x, at) * scale + shift, least))


@njit(**_IEEE)
def _forward(first, last, n, V, L, C, x, residual, y, weight, bias, mean, var, inverse, eps, zero, floor, tile, block):
    """Eqs. (2) and (3) for the devices from first to last."""
    row, count = L * C, n * L
    total_BC = np.empty((block, C))
    mean_BC, scale_BC = np.empty((block, C), weight.dtype), np.empty((block, C), weight.dtype)
    shift_BC = np.empty((block, C), weight.dtype)
    for begin in range(first, last, block):
        devices = min(block, last - begin)
        total_BC[:] = 0
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _add_sum(x, at, at + row, tile, zero, total_BC[b])
        for b in range(devices):
            for c in range(C):
                mean_BC[b, c] = mean[(begin + b) * C + c] = total_BC[b, c] / count
        total_BC[:] = 0
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _add_squares(x, at, at + row, tile, zero, mean_BC[b], total_BC[b])
        for b in range(devices):
            for c in range(C):
                v = (begin + b) * C + c
                var[v] = total_BC[b, c] / (count - 1)
                inverse[v] = 1 / np.sqrt(total_BC[b, c] / count + eps)
            _tabulate(begin + b, C, weight, bias, mean, inverse, scale_BC[b], shift_BC[b])
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _finish(x, residual, y, at, at + row, tile, scale_BC[b], shift_BC[b], floor)


@njit(**_IEEE)
def _add_gradients(x, grad, begin, end, tile, zero, mean_C, scale_C, shift_C, floor, total_C, products_C):
    """Adds the gradient that passes ReLU, and its products with the distance from the mean, to the totals."""
    C, least = len(mean_C), _all(floor)
    for first in range(begin, end, tile):
        last = min(first + tile, end)
        for c in range(0, C, LANES):
            mean, scale, shift = _load(mean_C, c), _load(scale_C, c), _load(shift_C, c)
            total, products = _all(zero), _all(zero)
            for at in range(first + c, last, C):
                value = _load(x, at)
                g = _passes(_load(grad, at), value * scale + shift, least)
                total = total + g
                products = products + g * (value - mean)
            _add_to(total_C, c, total)
            _add_to(products_C, c, products)


@njit(**_IEEE)
def _keep_gradients(y, grad, passed, begin, end, zero):
    """The gradient where ``y`` is positive: that of the sum before ReLU."""
    least = _all(zero)
    for at in range(begin, end, LANES):
        _store(passed, at, _passes(_load(grad, at), _load(y, at), least))


@njit(**_IEEE)
def _scale_gradients(x, grad, grad_x, begin, end, tile, scale_C, shift_C, floor, b_C, c_C):
    """``scale g + b x + c``, with g the gradient that passes ReLU."""
    C, least = len(scale_C), _all(floor)
    for first in range(begin, end, tile):
        last = min(first + tile, end)
        for c in range(0, C, LANES):
            scale, shift, by, plus = _load(scale_C, c), _load(shift_C, c), _load(b_C, c), _load(c_C, c)
            for at in range(first + c, last, C):
                value = _load(x, at)
                g = _passes(_load(grad, at), value * scale + shift, least)
                _store(grad_x, at, g * scale + value * by + plus)


@njit(**_IEEE)
def _backward(
    first, last, n, V, L, C, x, y, grad, passed, grad_x,
    weight, bias, mean, inverse, sums, products, zero, floor, tile, block,
):  # fmt: skip
    """The gradient for the devices from first to last.

    With r the inverse deviation, s and p the sums of g and of g (x - mean) over a device's samples: dw = r p, db = s
    and dx = w r (g - s / count - (x - mean) r^2 p / count).
    """
    row, count = L * C, n * L
    total_BC, products_BC = np.empty((block, C)), np.empty((block, C))
    mean_BC, scale_BC = np.empty((block, C), weight.dtype), np.empty((block, C), weight.dtype)
    shift_BC = np.empty((block, C), weight.dtype)
    b_BC, c_BC = np.empty((block, C), weight.dtype), np.empty((block, C), weight.dtype)
    for begin in range(first, last, block):
        devices = min(block, last - begin)
        total_BC[:] = 0
        products_BC[:] = 0
        for b in range(devices):
            mean_BC[b] = mean[(begin + b) * C : (begin + b + 1) * C]
            _tabulate(begin + b, C, weight, bias, mean, inverse, scale_BC[b], shift_BC[b])
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                if len(passed):
                    _keep_gradients(y, grad, passed, at, at + row, zero)
                _add_gradients(
                    x, passed if len(passed) else grad, at, at + row, tile, zero, mean_BC[b], scale_BC[b], shift_BC[b],
                    floor, total_BC[b], products_BC[b],
                )  # fmt: skip
        for b in range(devices):
            for c in range(C):
                v = (begin + b) * C + c
                r = inverse[v]
                sums[v] = total_BC[b, c]
                products[v] = products_BC[b, c] * r
                b_BC[b, c] = -scale_BC[b, c] * r * r * products_BC[b, c] / count
                c_BC[b, c] = -scale_BC[b, c] * total_BC[b, c] / count - b_BC[b, c] * mean[v]
        for i in range(n):
            for b in range(devices):
                at = (i * V + begin + b) * row
                _scale_gradients(
                    x, passed if len(passed) else grad, grad_x, at, at + row, tile, scale_BC[b], shift_BC[b], floor,
                    b_BC[b], c_BC[b],
                )  # fmt: skip


def compiled(stored: Any, real: Any, job: np.dtype[Any], block: int, *, keep: bool) -> dict[str, Any]:
    """The kernels as C functions of a job's address, each of which takes parts of the devices until none is left.

    Args:
        stored: NumPy's type of the tensors' memory.
        real: NumPy's type of statistics, weights and sums.
        job: The record that a kernel is told.
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
        floor, tile = real(0) if job.relu else real(-np.inf), max(1, _TILE // C) * C
        while True:
            first = _take(job.counter) * job.part
            if first >= V:
                return
            _forward(
                first, min(first + job.part, V), n, V, L, C, x, residual, y, weight, bias, mean, var, inverse,
                job.eps, real(0), floor, tile, block,
            )  # fmt: skip

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
        # Where the gradient has to be kept, ReLU is done with before it is the norm's turn.
        floor = real(0) if job.relu and not job.passed else real(-np.inf)
        tile = max(1, _TILE // C) * C
        while True:
            first = _take(job.counter) * job.part
            if first >= V:
                return
            _backward(
                first, min(first + job.part, V), n, V, L, C, x, y, grad, passed, grad_x,
                weight, bias, mean, inverse, sums, products, real(0), floor, tile, block,
            )  # fmt: skip

    @cfunc(signature, cache=keep)
    def affine(told):
        job = carray(told, 1)[0]
        C = job.channels
        row = job.samples * job.pixels * C
        size = job.devices * row
        x, y = carray(_pointer(job.x), size, stored), carray(_pointer(job.y), size, stored)
        residual = carray(_pointer(job.residual), size if job.residual else 0, stored)
        scale_C, shift_C = carray(_pointer(job.weight), C, real), carray(_pointer(job.bias), C, real)
        floor, tile = real(0) if job.relu else real(-np.inf), max(1, _TILE // C) * C
        while True:
            first = _take(job.counter) * job.part
            if first >= job.devices:
                return
            last = min(first + job.part, job.devices)
            _finish(x, residual, y, first * row, last * row, tile, scale_C, shift_C, floor)

    return {"forward": forward, "backward": backward, "affine": affine}
