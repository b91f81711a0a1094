"""A view of gray images, each made in one go while the fastest cache holds it; compiled by Numba.

It does what :func:`eman.trainers.views.views.changed` does by PyTorch's operations, to rounding. There every change is
a pass over the whole batch, and crop and blur are products with matrices that are nearly all zeros.

Shapes: B images of H by W pixels, at least two each way.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, njit, void

#: As in :mod:`~eman.trainers.accel.kernels`: sums stay in their order, so that results do not depend on the processor.
_IEEE = {"error_model": "numpy"}

#: Pixels to either side that the blur takes in.
_RADIUS = 3


@njit(**_IEEE)
def _taps(start, length, flipped, first_W, weight_2W):
    """For each pixel of a resized part of a line: the first of the two pixels that it lies between, and their weights.

    The part is never longer than the line, so that two are enough.
    """
    size = len(first_W)
    scale = length / np.float32(size)
    for out in range(size):
        place = np.float32(size - out if flipped else out) + np.float32(-0.5 if flipped else 0.5)
        centre = start + place * scale
        first = min(max(math.floor(centre - np.float32(0.5)), 0), size - 2)
        total = np.float32(0)
        for tap in range(2):
            pixel = np.float32(first + tap) + np.float32(0.5)
            weight = max(np.float32(1) - abs(pixel - centre), np.float32(0))
            if pixel <= start or pixel >= start + length:
                weight = np.float32(0)
            weight_2W[tap, out] = weight
            total += weight
        first_W[out] = first
        weight_2W[0, out] /= total
        weight_2W[1, out] /= total


@njit(**_IEEE)
def _adjust(image_HW, sum_W, brightness, contrast):
    """Multiplies by the brightness; then scales the distances from the mean by the contrast."""
    height, width = image_HW.shape
    one, zero = np.float32(1), np.float32(0)
    sum_W[:] = 0
    for i in range(height):
        for j in range(width):
            value = min(max(image_HW[i, j] * brightness, zero), one)
            image_HW[i, j] = value
            sum_W[j] += value
    total = 0.0
    for j in range(width):
        total += sum_W[j]
    mean = np.float32(total / (height * width))
    for i in range(height):
        for j in range(width):
            image_HW[i, j] = min(max((image_HW[i, j] - mean) * contrast + mean, zero), one)


@njit(**_IEEE)
def _weigh(weight_T, sigma, size):
    """A Gaussian's values, whose sum is 1; a line that is shorter than its reach has a shorter one."""
    radius = min(_RADIUS, size - 1)
    total = 0.0
    for t in range(len(weight_T)):
        distance = t - _RADIUS
        weight = math.exp(-distance * distance / (2.0 * sigma * sigma)) if abs(distance) <= radius else 0.0
        weight_T[t] = weight
        total += weight
    for t in range(len(weight_T)):
        weight_T[t] /= total


@njit(**_IEEE)
def _reflected(at, size):
    """The pixel that stands for one beyond the border; any, if the line is too short for it to count."""
    at = abs(at)
    return max(2 * (size - 1) - at, 0) if at >= size else at


@njit(**_IEEE)
def _blur(image_HW, wide, soft, weight_T, sigma):
    """A Gaussian blur with reflected borders, in place.

    ``wide`` has the image with its borders, row after row, so that a pass is one long loop: what it makes of the
    borders is not used.
    """
    height, width = image_HW.shape
    row = width + 2 * _RADIUS
    for i in range(-_RADIUS, height + _RADIUS):
        source_W, at = image_HW[_reflected(i, height)], (i + _RADIUS) * row + _RADIUS
        wide[at : at + width] = source_W
        for j in range(1, _RADIUS + 1):
            wide[at - j] = source_W[_reflected(-j, width)]
            wide[at + width - 1 + j] = source_W[_reflected(width - 1 + j, width)]
    _weigh(weight_T, sigma, height)
    _add_up(wide, soft, height * row, row, weight_T)
    _weigh(weight_T, sigma, width)
    _add_up(soft, wide, height * row - 2 * _RADIUS, 1, weight_T)
    for i in range(height):
        image_HW[i] = wide[i * row : i * row + width]


@njit(**_IEEE)
def _add_up(given, made, count, step, weight_T):
    """Each number made is the weighted sum of seven given ones that are ``step`` apart."""
    a, b, c, d, e, f, g = weight_T[0], weight_T[1], weight_T[2], weight_T[3], weight_T[4], weight_T[5], weight_T[6]
    # Slices, not indices beyond the loop's: the compiler must see that none is negative to compute several at once.
    given_b, given_c, given_d = given[step:], given[2 * step :], given[3 * step :]
    given_e, given_f, given_g = given[4 * step :], given[5 * step :], given[6 * step :]
    for k in range(count):
        made[k] = (
            given[k] * a
            + given_b[k] * b
            + given_c[k] * c
            + given_d[k] * d
            + given_e[k] * e
            + given_f[k] * f
            + given_g[k] * g
        )


def _changed(
    x_BHW, y_BHW, top_B, left_B, height_B, width_B, flipped_B, brightness_B, contrast_B, sigma_B, solarized_B, bright
):  # fmt: skip
    """Puts the changed images into ``y_BHW``; the rest is as in :class:`eman.trainers.views.views.Changes`."""
    batch, height, width = x_BHW.shape
    row_H, column_W = np.empty(height, np.int64), np.empty(width, np.int64)
    down_2H, right_2W = np.empty((2, height), np.float32), np.empty((2, width), np.float32)
    bordered = (height + 2 * _RADIUS) * (width + 2 * _RADIUS)
    wide, soft, line = np.empty(bordered, np.float32), np.empty(bordered, np.float32), np.empty(width, np.float32)
    weight_T = np.empty(2 * _RADIUS + 1, np.float32)
    for b in range(batch):
        x_HW, y_HW = x_BHW[b], y_BHW[b]
        _taps(top_B[b], height_B[b], False, row_H, down_2H)
        _taps(left_B[b], width_B[b], flipped_B[b], column_W, right_2W)
        for i in range(height):
            row, here, below = row_H[i], down_2H[0, i], down_2H[1, i]
            for j in range(width):
                line[j] = x_HW[row, j] * here + x_HW[row + 1, j] * below
            for j in range(width):
                y_HW[i, j] = line[column_W[j]] * right_2W[0, j] + line[column_W[j] + 1] * right_2W[1, j]
        if brightness_B[b] != 1 or contrast_B[b] != 1:
            _adjust(y_HW, line, brightness_B[b], contrast_B[b])
        if sigma_B[b] > 0:
            _blur(y_HW, wide, soft, weight_T, sigma_B[b])
        if solarized_B[b]:
            for i in range(height):
                for j in range(width):
                    if y_HW[i, j] >= bright:
                        y_HW[i, j] = np.float32(1) - y_HW[i, j]


def compiled(*, keep: bool) -> Any:
    """The kernel.

    Args:
        keep: Whether to keep the machine code on disk, beside this file or in the user's cache.

    Raises:
        RuntimeError: ``keep`` is true and there is no folder to write to.
    """
    images, numbers, choices = float32[:, :, ::1], float32[:], boolean[:]
    told = (images, images, *[numbers] * 4, choices, *[numbers] * 3, choices, float32)  # as _changed takes them
    return njit(void(*told), cache=keep, **_IEEE)(_changed)
