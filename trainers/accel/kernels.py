"""The kernels of :mod:`eman.trainers.accel.norms`, which documents what they compute; compiled by Numba.

They work on lanes: the values of 16 neighbouring channels of a pixel, which the compiler keeps in vector registers.
Plain loops would depend on its vectorizer, which cannot know that arrays do not overlap and makes code that is several
times slower. A tile is as many pixels as fit the L1 cache. Sums are in the tensors' arithmetic within a tile and in
float64 over tiles.

Everything is in one file because Numba recompiles only when the file of a function changes.
"""

import logging
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

from eman.trainers.accel.width import LANES

#: Division by zero gives infinity or NaN. Without ``fastmath`` the compiler neither reorders sums nor contracts
#: products, so results do not depend on the processor.
_OPTIONS = {"error_model": "numpy", "nogil": True}

#: Numbers in a tile.
_TILE = 4096

_WORDS = ir.VectorType(ir.IntType(32), LANES)

log = logging.getLogger("eman")


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


def _each(bits: int) -> ir.Constant:
    return ir.Constant(_WORDS, [bits] * LANES)


def _pointer(context, builder, array_type, array, at):
    """Return a pointer to the lanes that begin at a place of an array's memory."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _vector(array_type.dtype).as_pointer())


def _to_bfloat16(builder, value):
    """Round to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _each(16)), _each(1))
    up = builder.add(bits, builder.add(odd, _each(0x7FFF)))
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, builder.or_(bits, _each(0x400000)), up)
    return builder.trunc(builder.lshr(rounded, _each(16)), _vector(types.uint16))


@intrinsic
def _load(_typing, array, at):
    """Load lanes from an array; bfloat16, whose bits are given, as floats."""

    def code(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args)
        value = builder.load(pointer, align=array.dtype.bitwidth // 8)
        if array.dtype != types.uint16:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _WORDS), _each(16)), _vector(types.float32))

    return _Lanes(types.float32 if array.dtype == types.uint16 else array.dtype)(array, at), code


@intrinsic
def _store(_typing, array, at, lanes):
    """Store lanes in an array; as bfloat16 if it holds those."""

    def code(context, builder, signature, args):
        value = _to_bfloat16(builder, args[2]) if array.dtype == types.uint16 else args[2]
        pointer = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, at, lanes), code


@intrinsic
def _add_to(_typing, totals, at, lanes):
    """Add lanes to an array of float64."""

    def code(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args[:2])
        value = args[2] if lanes.real == types.float64 else builder.fpext(args[2], _vector(types.float64))
        builder.store(builder.fadd(builder.load(pointer, align=8), value), pointer, align=8)
        return context.get_dummy_value()

    return types.void(totals, at, lanes), code


@intrinsic
def _all(_typing, value):
    """Return lanes that all hold one value."""

    def code(_context, builder, _signature, args):
        vector = _vector(value)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), _each(0))

    return _Lanes(value)(value), code


@intrinsic
def _at_least(_typing, value, floor):
    """Return the maximum of two lanes; NaN stays NaN."""

    def code(_context, builder, _signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

    return value(value, floor), code


@intrinsic
def _passed(_typing, gradient, value, floor):
    """Return the gradient where the value is above the floor or NaN, else 0."""

    def code(_context, builder, _signature, args):
        zero = ir.Constant(args[0].type, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered("<=", *args[1:]), zero, args[0])

    return gradient(gradient, value, floor), code


def _arithmetic(operation: Callable[..., Any], instruction: str) -> None:
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


def _kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile on first use, and cache the machine code next to this file or in the user's cache if writable."""
    try:
        return njit(function, cache=True, **_OPTIONS)  # type: ignore[no-any-return]
    except RuntimeError as error:
        log.warning("the compiled kernels cannot be kept (%s); NUMBA_CACHE_DIR names a folder for them", error)
        return njit(function, **_OPTIONS)  # type: ignore[no-any-return]


@njit(**_OPTIONS)
def _add_sums(x_LC, mean_C, total_C, squares_C):
    """Add the distances from the mean, and their squares, to the totals."""
    pixels, channels = x_LC.shape
    zero = _all(mean_C.dtype.type(0))
    for c in range(0, channels, LANES):
        mean, total, squares = _load(mean_C, c), zero, zero
        for at in range(c, pixels * channels, channels):
            rest = _load(x_LC, at) - mean
            total = total + rest
            squares = squares + rest * rest
        _add_to(total_C, c, total)
        _add_to(squares_C, c, squares)


@njit(**_OPTIONS)
def _finish(x_NLC, residual_NLC, y_NLC, n, first, last, scale_C, shift_C, relu):
    """Store ``x scale + shift + residual`` of some pixels of an image, after ReLU if ``relu``."""
    real = scale_C.dtype.type
    least = _all(real(0) if relu else real(-np.inf))
    x_LC, y_LC = x_NLC[n, first:last], y_NLC[n, first:last]
    pixels, channels = x_LC.shape
    for c in range(0, channels, LANES):
        scale, shift = _load(scale_C, c), _load(shift_C, c)
        if len(residual_NLC):
            residual_LC = residual_NLC[n, first:last]
            for at in range(c, pixels * channels, channels):
                _store(y_LC, at, _at_least(_load(x_LC, at) * scale + shift + _load(residual_LC, at), least))
        else:
            for at in range(c, pixels * channels, channels):
                _store(y_LC, at, _at_least(_load(x_LC, at) * scale + shift, least))


@njit(**_OPTIONS)
def _add_gradients(x_LC, gate_LC, grad_LC, floor, mean_C, total_C, products_C):
    """Add the gradient where the gate is above the floor, and its products with the distance from the mean."""
    pixels, channels = x_LC.shape
    zero = _all(mean_C.dtype.type(0))
    for c in range(0, channels, LANES):
        mean, total, products = _load(mean_C, c), zero, zero
        for at in range(c, pixels * channels, channels):
            g = _passed(_load(grad_LC, at), _load(gate_LC, at), floor)
            total = total + g
            products = products + g * (_load(x_LC, at) - mean)
        _add_to(total_C, c, total)
        _add_to(products_C, c, products)


@njit(**_OPTIONS)
def _scale_gradients(x_LC, gate_LC, grad_LC, grad_x_LC, floor, a_C, b_C, c_C):
    """Store ``a g + b x + c``, with g the gradient where the gate is above the floor."""
    pixels, channels = x_LC.shape
    for c in range(0, channels, LANES):
        by_g, by_x, plus = _load(a_C, c), _load(b_C, c), _load(c_C, c)
        for at in range(c, pixels * channels, channels):
            g = _passed(_load(grad_LC, at), _load(gate_LC, at), floor)
            _store(grad_x_LC, at, g * by_g + _load(x_LC, at) * by_x + plus)


@_kernel
def forward(x_NLC, residual_NLC, y_NLC, weight_C, bias_C, mean_VC, var_VC, inverse_VC, eps, relu):
    """Compute Eqs. (2) and (3) device by device: mean, variance about the mean, result."""
    samples, pixels, channels = x_NLC.shape
    devices, tile = len(mean_VC), max(1, _TILE // channels)
    count = samples // devices * pixels
    total_C, squares_C = np.empty(channels), np.empty(channels)
    scale_C, shift_C = np.empty_like(weight_C), np.empty_like(weight_C)
    for v in range(devices):
        mean_C = mean_VC[v]
        mean_C[:] = 0
        for _ in range(2):
            total_C[:] = 0
            squares_C[:] = 0
            for n in range(v, samples, devices):
                for first in range(0, pixels, tile):
                    _add_sums(x_NLC[n, first : first + tile], mean_C, total_C, squares_C)
            for c in range(channels):
                mean_C[c] += total_C[c] / count
        for c in range(channels):
            variance = squares_C[c] / count - (total_C[c] / count) ** 2
            var_VC[v, c] = variance * count / (count - 1)
            inverse_VC[v, c] = 1 / np.sqrt(variance + eps)
            scale_C[c] = inverse_VC[v, c] * weight_C[c]
            shift_C[c] = bias_C[c] - mean_C[c] * scale_C[c]
        for n in range(v, samples, devices):
            for first in range(0, pixels, tile):
                _finish(x_NLC, residual_NLC, y_NLC, n, first, first + tile, scale_C, shift_C, relu)


@_kernel
def backward(x_NLC, gate_NLC, grad_NLC, grad_x_NLC, weight_C, mean_VC, inverse_VC, sums_VC, products_VC, relu):
    """Compute the gradient of :func:`forward`; with ReLU, ``gate`` is its result.

    With r the inverse deviation, s and p the sums of g and of g (x - mean) over a device's samples: dw = r p, db = s
    and dx = w r (g - s / count - (x - mean) r^2 p / count).
    """
    samples, pixels, channels = x_NLC.shape
    devices, tile = len(mean_VC), max(1, _TILE // channels)
    count = samples // devices * pixels
    real = weight_C.dtype.type
    floor = _all(real(0) if relu else real(-np.inf))
    total_C, product_C = np.empty(channels), np.empty(channels)
    a_C, b_C, c_C = np.empty_like(weight_C), np.empty_like(weight_C), np.empty_like(weight_C)
    for v in range(devices):
        mean_C = mean_VC[v]
        total_C[:] = 0
        product_C[:] = 0
        for n in range(v, samples, devices):
            for i in range(0, pixels, tile):
                j = i + tile
                _add_gradients(x_NLC[n, i:j], gate_NLC[n, i:j], grad_NLC[n, i:j], floor, mean_C, total_C, product_C)
        for c in range(channels):
            r = inverse_VC[v, c]
            sums_VC[v, c] = total_C[c]
            products_VC[v, c] = product_C[c] * r
            a_C[c] = weight_C[c] * r
            b_C[c] = -a_C[c] * r * r * product_C[c] / count
            c_C[c] = -a_C[c] * total_C[c] / count - b_C[c] * mean_C[c]
        for n in range(v, samples, devices):
            for i in range(0, pixels, tile):
                j = i + tile
                tiles = x_NLC[n, i:j], gate_NLC[n, i:j], grad_NLC[n, i:j], grad_x_NLC[n, i:j]
                _scale_gradients(*tiles, floor, a_C, b_C, c_C)


@_kernel
def affine(x_NLC, residual_NLC, y_NLC, scale_C, shift_C, relu):
    """Compute ``x scale + shift + residual``, after ReLU if ``relu``."""
    samples, pixels, channels = x_NLC.shape
    tile = max(1, _TILE // channels)
    for n in range(samples):
        for first in range(0, pixels, tile):
            _finish(x_NLC, residual_NLC, y_NLC, n, first, first + tile, scale_C, shift_C, relu)
