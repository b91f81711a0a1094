"""Batch normalization over devices on a GPU, compiled by Triton: what :mod:`eman.trainers.accel.norms` documents.

PyTorch's batch norm on the view ``(N/V, V*C, ...)`` needs a copy of a channels-last batch, and it leaves the shortcut's
addition and ReLU to further passes over memory. A program of these kernels reads some rows of one device, for a block
of channels. Sums have a fixed order, so results repeat bit for bit.

Shapes: N samples, V devices, L pixels, C channels, S slices of a device's rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Values in a tile, and programs in a launch where the tensor has enough rows.
_TILE, _PROGRAMS = 2048, 2112

#: Slices and channels that a program adds at once.
_SLICES, _FEW = 128, 16


@triton.jit
def _tile(start, stop, v, channel, pixels, devices, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the offsets of a tile's values and which of them exist. Row ``r`` of a device is a pixel of a sample."""
    row = start + tl.arange(0, ROWS)
    column = channel * COLUMNS + tl.arange(0, COLUMNS)
    sample = (row // pixels).to(tl.int64) * devices + v
    offset = (sample * pixels + row % pixels)[:, None] * channels + column[None, :]
    return offset, (row < stop)[:, None] & (column < channels)[None, :]


@triton.jit
def _vector(values, v, column, channels):
    """Load a device's value for some channels, as a row."""
    return tl.load(values + v * channels + column, mask=column < channels, other=0.0)[None, :]


@triton.jit
def _moments(x, sums, squares, rows, size, pixels, devices, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Store the sums over a slice of the distances from the device's first pixel, which is near the mean, and of their
    squares.
    """
    channel, part, v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = channel * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(x + v.to(tl.int64) * pixels * channels + column, mask=column < channels, other=0.0).to(tl.float32)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    square = tl.zeros([ROWS, COLUMNS], tl.float32)
    stop = tl.minimum((part + 1) * size, rows)
    for at in range(part * size, stop, ROWS):
        offset, exists = _tile(at, stop, v, channel, pixels, devices, channels, ROWS, COLUMNS)
        value = tl.load(x + offset, mask=exists, other=0.0).to(tl.float32)
        rest = tl.where(exists, value - first[None, :], 0.0)
        total += rest
        square += rest * rest
    place = (v * tl.num_programs(1) + part) * channels + column
    tl.store(sums + place, tl.sum(total, 0), mask=column < channels)
    tl.store(squares + place, tl.sum(square, 0), mask=column < channels)


@triton.jit
def _over_slices(first, second, v, column, slices, channels, SLICES: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the sums over a device's slices of two values per channel."""
    total = tl.zeros([SLICES, COLUMNS], tl.float32)
    other = tl.zeros([SLICES, COLUMNS], tl.float32)
    for at in range(0, slices, SLICES):
        part = at + tl.arange(0, SLICES)
        exists = (part < slices)[:, None] & (column < channels)[None, :]
        place = (v * slices + part)[:, None] * channels + column[None, :]
        total += tl.load(first + place, mask=exists, other=0.0)
        other += tl.load(second + place, mask=exists, other=0.0)
    return tl.sum(total, 0), tl.sum(other, 0)


@triton.jit
def _statistics(
    x, sums, squares, weight, bias, mean_out, var_out, inverse_out, scale_out, shift_out,
    rows, pixels, slices, channels, eps, SLICES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the slices of a device: Eq. (2), and the factors of Eq. (3)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    v, exists = tl.program_id(1), column < channels
    total, square = _over_slices(sums, squares, v, column, slices, channels, SLICES, COLUMNS)
    first = tl.load(x + v.to(tl.int64) * pixels * channels + column, mask=exists, other=0.0).to(tl.float32)
    rest = total / rows
    mean = first + rest
    variance = tl.maximum(square / rows - rest * rest, 0.0)
    inverse = 1 / tl.sqrt(variance + eps)
    scale = inverse * tl.load(weight + column, mask=exists, other=0.0)
    place = v * channels + column
    tl.store(mean_out + place, mean, mask=exists)
    tl.store(var_out + place, variance * (rows / (rows - 1)), mask=exists)
    tl.store(inverse_out + place, inverse, mask=exists)
    tl.store(scale_out + place, scale, mask=exists)
    tl.store(shift_out + place, tl.load(bias + column, mask=exists, other=0.0) - mean * scale, mask=exists)


@triton.jit
def _affine(
    x, residual, y, scale, shift, rows, size, pixels, devices, channels,
    ADD: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store ``x scale + shift + residual``, after ReLU if asked for."""
    channel, part, v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = channel * COLUMNS + tl.arange(0, COLUMNS)
    factor = _vector(scale, v, column, channels)
    plus = _vector(shift, v, column, channels)
    stop = tl.minimum((part + 1) * size, rows)
    for at in range(part * size, stop, ROWS):
        offset, exists = _tile(at, stop, v, channel, pixels, devices, channels, ROWS, COLUMNS)
        value = tl.load(x + offset, mask=exists, other=0.0).to(tl.float32) * factor + plus
        if ADD:
            value += tl.load(residual + offset, mask=exists, other=0.0).to(tl.float32)
        if RELU:
            value = tl.where(value < 0, 0.0, value)  # NaN stays NaN
        tl.store(y + offset, value.to(y.dtype.element_ty), mask=exists)


@triton.jit
def _gradient(grad, gate, offset, exists, value, factor, plus, SAVED: tl.constexpr, RELU: tl.constexpr):
    """Load the gradient before ReLU. Its gate is the saved output, or is computed again from the input."""
    g = tl.load(grad + offset, mask=exists, other=0.0).to(tl.float32)
    if RELU:
        y = tl.load(gate + offset, mask=exists, other=0.0).to(tl.float32) if SAVED else value * factor + plus
        g = tl.where(y <= 0, 0.0, g)
    return g


@triton.jit
def _sums(
    x, gate, grad, mean, scale, shift, sums, products, rows, size, pixels, devices, channels,
    SAVED: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store the sums over a slice of g and of g (x - mean)."""
    channel, part, v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = channel * COLUMNS + tl.arange(0, COLUMNS)
    centre = _vector(mean, v, column, channels)
    factor = _vector(scale, v, column, channels)
    plus = _vector(shift, v, column, channels)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    stop = tl.minimum((part + 1) * size, rows)
    for at in range(part * size, stop, ROWS):
        offset, exists = _tile(at, stop, v, channel, pixels, devices, channels, ROWS, COLUMNS)
        value = tl.load(x + offset, mask=exists, other=0.0).to(tl.float32)
        g = _gradient(grad, gate, offset, exists, value, factor, plus, SAVED, RELU)
        total += g
        product += g * (value - centre)
    place = (v * tl.num_programs(1) + part) * channels + column
    tl.store(sums + place, tl.sum(total, 0), mask=column < channels)
    tl.store(products + place, tl.sum(product, 0), mask=column < channels)


@triton.jit
def _factors(
    sums, products, mean, inverse, scale, sum_out, product_out, by_x_out, plus_out, rows, slices, channels,
    SLICES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the slices of a device; store the gradients of bias and weight, and b and c of dx = scale g + b x + c."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    v, exists = tl.program_id(1), column < channels
    total, product = _over_slices(sums, products, v, column, slices, channels, SLICES, COLUMNS)
    place = v * channels + column
    r = tl.load(inverse + place, mask=exists, other=0.0)
    factor = tl.load(scale + place, mask=exists, other=0.0)
    by_x = -factor * r * r * product / rows
    tl.store(sum_out + place, total, mask=exists)
    tl.store(product_out + place, product * r, mask=exists)
    tl.store(by_x_out + place, by_x, mask=exists)
    centre = tl.load(mean + place, mask=exists, other=0.0)
    tl.store(plus_out + place, -factor * total / rows - by_x * centre, mask=exists)


@triton.jit
def _scaled(
    x, gate, grad, scale, shift, by_x, plus_x, grad_x, grad_residual, rows, size, pixels, devices, channels,
    SAVED: tl.constexpr, RELU: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store ``scale g + b x + c``, and g itself for the shortcut if there is one."""
    channel, part, v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = channel * COLUMNS + tl.arange(0, COLUMNS)
    factor = _vector(scale, v, column, channels)
    plus = _vector(shift, v, column, channels)
    b = _vector(by_x, v, column, channels)
    c = _vector(plus_x, v, column, channels)
    stop = tl.minimum((part + 1) * size, rows)
    for at in range(part * size, stop, ROWS):
        offset, exists = _tile(at, stop, v, channel, pixels, devices, channels, ROWS, COLUMNS)
        value = tl.load(x + offset, mask=exists, other=0.0).to(tl.float32)
        g = _gradient(grad, gate, offset, exists, value, factor, plus, SAVED, RELU)
        tl.store(grad_x + offset, (g * factor + value * b + c).to(grad_x.dtype.element_ty), mask=exists)
        if ADD:
            tl.store(grad_residual + offset, g.to(grad_residual.dtype.element_ty), mask=exists)


class _Grid:
    """How programs share a batch: over blocks of channels, slices of a device's rows, and devices."""

    def __init__(self, x: Tensor, devices: int) -> None:
        samples, self.channels = x.shape[:2]
        self.pixels, self.devices = x.numel() // (samples * self.channels), devices
        self.rows = samples // devices * self.pixels
        self.columns = min(128, triton.next_power_of_2(self.channels))
        self.tile = _TILE // self.columns
        self.blocks = triton.cdiv(self.channels, self.columns)
        wanted = max(1, _PROGRAMS // (self.blocks * devices))
        self.size = triton.cdiv(triton.cdiv(self.rows, wanted), self.tile) * self.tile
        self.slices = triton.cdiv(self.rows, self.size)
        self.all = (self.blocks, self.slices, devices)
        few = min(_FEW, self.columns)
        self.few = (triton.cdiv(self.channels, few), devices)
        self.over_slices = {"SLICES": _SLICES, "COLUMNS": few}
        #: Arguments of every kernel that visits all rows.
        self.shape = (self.rows, self.size, self.pixels, devices, self.channels)
        self.block = {"ROWS": self.tile, "COLUMNS": self.columns}

    def partial(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return room for two sums per slice."""
        first, second = like.new_empty(2, self.devices, self.slices, self.channels)
        return first, second

    def vectors(self, like: Tensor, count: int) -> tuple[Tensor, ...]:
        """Return room for some values per device and channel, ``(V, C)`` each."""
        return like.new_empty(count, self.devices, self.channels).unbind()


def forward(
    x: Tensor, weight_C: Tensor, bias_C: Tensor, devices: int, eps: float, residual: Tensor | None, relu: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Normalize.

    Returns:
        The result; and mean, unbiased variance, inverse deviation, scale and shift, ``(V, C)`` each.
    """
    grid, y = _Grid(x, devices), torch.empty_like(x)
    sums, squares = grid.partial(weight_C)
    statistics = grid.vectors(weight_C, 5)
    _moments[grid.all](x, sums, squares, *grid.shape, **grid.block)
    _statistics[grid.few](
        x, sums, squares, weight_C, bias_C, *statistics, grid.rows, grid.pixels, grid.slices, grid.channels, eps,
        **grid.over_slices,
    )  # fmt: skip
    _run_affine(grid, x, residual, y, statistics[3], statistics[4], relu)
    return y, statistics


def affine(x: Tensor, scale_C: Tensor, shift_C: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Return ``x scale + shift + residual``, after ReLU if asked for."""
    y = torch.empty_like(x)
    _run_affine(_Grid(x, 1), x, residual, y, scale_C, shift_C, relu)
    return y


def _run_affine(
    grid: _Grid, x: Tensor, residual: Tensor | None, y: Tensor, scale: Tensor, shift: Tensor, relu: bool
) -> None:
    other = x if residual is None else residual
    _affine[grid.all](
        x, other, y, scale, shift, *grid.shape, ADD=residual is not None, RELU=relu, **grid.block
    )  # fmt: skip


def backward(
    grad: Tensor, x: Tensor, y: Tensor | None, _weight_C: Tensor, statistics: tuple[Tensor, ...], residual: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of input, weight, bias and shortcut; ``y`` is the output if ReLU was applied."""
    mean, _, inverse, scale, shift = statistics
    relu, grid = y is not None, _Grid(x, len(mean))
    saved = relu and residual  # without a shortcut, computing the gate again is cheaper than reading the output
    gate = y if y is not None and saved else x
    sums, products = grid.partial(mean)
    sum_VC, product_VC, by_x, plus_x = grid.vectors(mean, 4)
    grad_x = torch.empty_like(x)
    store = residual and relu
    grad_residual = torch.empty_like(x) if store else grad if residual else None
    _sums[grid.all](
        x, gate, grad, mean, scale, shift, sums, products, *grid.shape, SAVED=saved, RELU=relu, **grid.block
    )  # fmt: skip
    _factors[grid.few](
        sums, products, mean, inverse, scale, sum_VC, product_VC, by_x, plus_x, grid.rows, grid.slices, grid.channels,
        **grid.over_slices,
    )  # fmt: skip
    _scaled[grid.all](
        x, gate, grad, scale, shift, by_x, plus_x, grad_x, grad_residual if store else grad_x, *grid.shape,
        SAVED=saved, RELU=relu, ADD=store, **grid.block,
    )  # fmt: skip
    return grad_x, product_VC.sum(0), sum_VC.sum(0), grad_residual
