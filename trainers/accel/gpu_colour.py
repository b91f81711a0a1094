"""Colour changes on a GPU, compiled by Triton: what :func:`eman.trainers.views.transforms.jitter` documents.

One operation after another would read and write the images some forty times; these kernels do so twice.

Shapes: B images, H by W pixels, P = H W.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Pixels that a program computes.
_PIXELS = 1024


@triton.jit
def _clamp(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _gray(r, g, b):
    return 0.2989 * r + 0.587 * g + 0.114 * b


@triton.jit
def _load(x, brightness, image, pixels, PIXELS: tl.constexpr):
    """Return the places of some pixels, which of them exist, and their brightened colours."""
    place = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    exists = place < pixels
    base = x + image.to(tl.int64) * 3 * pixels + place
    factor = tl.load(brightness + image)
    r = _clamp(tl.load(base, mask=exists, other=0.0) * factor)
    g = _clamp(tl.load(base + pixels, mask=exists, other=0.0) * factor)
    b = _clamp(tl.load(base + 2 * pixels, mask=exists, other=0.0) * factor)
    return place, exists, r, g, b


@triton.jit
def _sum_gray(x, brightness, sums, pixels, PIXELS: tl.constexpr):
    """Store the sum of the gray values of some pixels of an image."""
    image = tl.program_id(0)
    _place, _exists, r, g, b = _load(x, brightness, image, pixels, PIXELS)
    tl.store(sums + image * tl.num_programs(1) + tl.program_id(1), tl.sum(_gray(r, g, b), 0))


@triton.jit
def _channel(n: tl.constexpr, turned, high, chroma):
    """Return a channel of HSV to RGB: V - C clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6."""
    k = turned + n
    k = tl.where(k >= 6, k - 6, k)
    return high - chroma * _clamp(tl.minimum(k, 4 - k))


@triton.jit
def _adjust(x, y, brightness, contrast, saturation, turn, grayed, mean, pixels, PIXELS: tl.constexpr):
    """Store the changed colours of some pixels of an image."""
    image = tl.program_id(0)
    place, exists, r, g, b = _load(x, brightness, image, pixels, PIXELS)
    factor, middle = tl.load(contrast + image), tl.load(mean + image)
    r, g, b = (
        _clamp((r - middle) * factor + middle),
        _clamp((g - middle) * factor + middle),
        _clamp((b - middle) * factor + middle),
    )
    factor, middle = tl.load(saturation + image), _gray(r, g, b)
    r, g, b = (
        _clamp((r - middle) * factor + middle),
        _clamp((g - middle) * factor + middle),
        _clamp((b - middle) * factor + middle),
    )
    high = tl.maximum(tl.maximum(r, g), b)
    chroma = high - tl.minimum(tl.minimum(r, g), b)
    safe = tl.where(chroma > 0, chroma, 1.0)
    sector = tl.where(r == high, (g - b) / safe, tl.where(g == high, 2 + (b - r) / safe, 4 + (r - g) / safe))
    turned = sector / 6 + tl.load(turn + image)
    turned = (turned - tl.floor(turned)) * 6
    r, g, b = _channel(5, turned, high, chroma), _channel(3, turned, high, chroma), _channel(1, turned, high, chroma)
    if tl.load(grayed + image) != 0:
        middle = _gray(r, g, b)
        r, g, b = middle, middle, middle
    base = y + image.to(tl.int64) * 3 * pixels + place
    tl.store(base, r, mask=exists)
    tl.store(base + pixels, g, mask=exists)
    tl.store(base + 2 * pixels, b, mask=exists)


def jitter(x_B3HW: Tensor, colour_4B: tuple[Tensor, ...], gray_B: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, then convert some images to gray.

    Args:
        x_B3HW: Contiguous images, float32.
        colour_4B: Factors of brightness, contrast and saturation, and the hue's shift in turns.
        gray_B: bool; whether to convert to gray.
    """
    pixels = x_B3HW.shape[2] * x_B3HW.shape[3]
    grid = (len(x_B3HW), triton.cdiv(pixels, _PIXELS))
    colours = [amount_B.float().contiguous() for amount_B in colour_4B]
    sums_BP = x_B3HW.new_empty(grid)
    y_B3HW = torch.empty_like(x_B3HW)
    _sum_gray[grid](x_B3HW, colours[0], sums_BP, pixels, PIXELS=_PIXELS)
    mean_B = sums_BP.sum(1) / pixels
    _adjust[grid](x_B3HW, y_B3HW, *colours, gray_B.to(torch.uint8), mean_B, pixels, PIXELS=_PIXELS)
    return y_B3HW
