"""Torchvision's transforms on batches, with an individual amount per image.

Images are floats in [0, 1] until :func:`normalize`. Crop, flip and blur are products with small matrices from both
sides.

Shapes: B images, A channels, H by W pixels.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.trainers.accel.available import has_triton


def resize_matrix(start_B: Tensor, length_B: Tensor, size: int, out: int, flipped_B: Tensor | None = None) -> Tensor:
    """Return matrices that resample ``[start, start + length)`` of ``size`` pixels to ``out`` pixels, anti-aliased.

    Args:
        start_B: float32, in pixels.
        length_B: float32, in pixels.
        size: Pixels of the image.
        out: Pixels of the result.
        flipped_B: bool; whether to reverse the result.

    Returns:
        ``(B, out, size)``; each row sums to 1. ``rows @ image @ columns.T`` equals torchvision's ``resized_crop``.
    """
    start, length = start_B.view(-1, 1, 1), length_B.view(-1, 1, 1)
    scale = length / out
    place = torch.arange(out, device=start.device).view(1, -1, 1) + 0.5
    if flipped_B is not None:
        place = torch.where(flipped_B.view(-1, 1, 1), out - place, place)
    pixel = torch.arange(size, device=start.device).view(1, 1, -1) + 0.5
    weight = pixel - (start + place * scale)
    weight.abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weight *= ((pixel > start) & (pixel < start + length)).float()
    return weight.div_(weight.sum(2, keepdim=True))


def crop_and_flip(x_BAHW: Tensor, box_4B: tuple[Tensor, ...] | None, flipped_B: Tensor) -> Tensor:
    """Apply ``resized_crop`` at the images' own size, with one box per image, then ``horizontal_flip``.

    Args:
        x_BAHW: Images.
        box_4B: Top, left, height and width in pixels, each ``(B,)``; ``None`` for no crop.
        flipped_B: bool; whether to flip horizontally.
    """
    if box_4B is None:
        return torch.where(flipped_B.view(-1, 1, 1, 1), x_BAHW.flip(3), x_BAHW)
    top, left, h, w = box_4B
    height, width = x_BAHW.shape[2:]
    rows = resize_matrix(top, h, height, height)
    columns = resize_matrix(left, w, width, width, flipped_B)
    return _from_both_sides(rows, x_BAHW, columns)


def move_and_flip(x_BAHW: Tensor, moved_2B: tuple[Tensor, ...], flipped_B: Tensor) -> Tensor:
    """Apply torchvision's ``RandomCrop`` with reflected padding, one crop per image, then ``horizontal_flip``.

    Args:
        x_BAHW: Images.
        moved_2B: int64, offset of the crop from the image in pixels, downwards and to the right; may be negative.
        flipped_B: bool; whether to flip horizontally.
    """
    height, width = x_BAHW.shape[2:]
    row, column = (torch.arange(size, device=x_BAHW.device) for size in (height, width))
    column_BW = torch.where(flipped_B.unsqueeze(1), column.flip(0), column)
    down_B, right_B = moved_2B
    source_BH = _mirrored(row + down_B.unsqueeze(1), height)
    source_BW = _mirrored(column_BW + right_B.unsqueeze(1), width)
    source_B1P = (source_BH.unsqueeze(2) * width + source_BW.unsqueeze(1)).flatten(1).unsqueeze(1)
    return x_BAHW.flatten(2).gather(2, source_B1P.expand(-1, x_BAHW.shape[1], -1)).view(x_BAHW.shape)


def _mirrored(place: Tensor, size: int) -> Tensor:
    """Return pixel positions reflected into an image of ``size`` pixels, at the centres of its border pixels."""
    return (size - 1) - ((size - 1) - place.abs()).abs()


#: The gray with which the public versions of RandAugment fill a square: ImageNet's mean colour.
GRAY = (125, 123, 114)


def cutout(x_BAHW: Tensor, middle_B: Tensor, centre_B: Tensor, side_B: Tensor) -> Tensor:
    """Fill a square with gray: Cutout as in the public versions of RandAugment, which draw with Pillow.

    Pillow truncates the corners' coordinates to whole pixels and includes them, so a square is up to a pixel larger
    than its side. Images of one channel get the gray's luminance.

    Args:
        x_BAHW: Images.
        middle_B: Row of the square's middle, in pixels; parts outside the image are cut off.
        centre_B: Column of the square's middle, in pixels.
        side_B: Side of the square in pixels; 0 leaves an image as it is.
    """
    inside = (side_B > 0).view(-1, 1, 1, 1)
    for dim, place_B in ((2, middle_B), (3, centre_B)):
        first_B = torch.floor((place_B - side_B / 2).clamp(min=0))
        pixel = torch.arange(x_BAHW.shape[dim], device=x_BAHW.device)
        covered = (pixel >= first_B.unsqueeze(1)) & (pixel <= (first_B + side_B).unsqueeze(1))
        inside = inside & covered.view(len(covered), 1, *((-1, 1) if dim == 2 else (1, -1)))
    values = GRAY if x_BAHW.shape[1] == 3 else (round(0.299 * GRAY[0] + 0.587 * GRAY[1] + 0.114 * GRAY[2]),)
    return torch.where(inside, _channels(tuple(value / 255 for value in values), x_BAHW.device), x_BAHW)


def _from_both_sides(rows: Tensor, x_BAHW: Tensor, columns: Tensor) -> Tensor:
    """Return ``rows @ x @ columns.T`` for each channel of each image."""
    batch, channels, height, width = x_BAHW.shape
    x = x_BAHW.reshape(batch, channels * height, width) @ columns.transpose(1, 2)
    if channels == 1:
        return (rows @ x).unsqueeze(1)
    return rows.unsqueeze(1) @ x.view(batch, channels, height, -1)


@lru_cache(maxsize=8)
def _taps(size: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the source pixel of each tap of a blur that repeats the border, one-hot, and its squared distance."""
    tap = torch.arange(-radius, radius + 1, device=device)
    source = (torch.arange(size, device=device).unsqueeze(1) + tap).clamp(0, size - 1)
    return F.one_hot(source, size).float(), tap.float().square()


def blur(x_BAHW: Tensor, sigma_B: Tensor, largest: float) -> Tensor:
    """Apply a Gaussian blur with one sigma per image, which repeats the border's pixels as Pillow does.

    Args:
        x_BAHW: Images.
        sigma_B: Standard deviations in pixels; 0 leaves an image as it is.
        largest: A bound on ``sigma_B``; four times as many pixels on each side are summed.
    """

    def matrix(size: int) -> Tensor:
        one_hot, squares = _taps(size, math.ceil(4 * largest), x_BAHW.device)
        weight = torch.softmax(-squares / (2 * sigma_B.clamp(min=1e-3).square().unsqueeze(1)), 1)
        return torch.einsum("bt,hts->bhs", weight, one_hot)

    height, width = x_BAHW.shape[2:]
    rows = matrix(height)
    return _from_both_sides(rows, x_BAHW, rows if width == height else matrix(width))


def gray(x_BAHW: Tensor) -> Tensor:
    """Apply torchvision's ``rgb_to_grayscale``; return ``(B, 1, H, W)``."""
    if x_BAHW.shape[1] == 1:
        return x_BAHW
    r, g, b = x_BAHW.unbind(1)
    return r.mul(0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).unsqueeze(1)


def blend(x_BAHW: Tensor, other: Tensor, factor_B: Tensor) -> Tensor:
    """Return ``factor * x + (1 - factor) * other``, clamped to [0, 1], with one factor per image."""
    factor = factor_B.view(-1, 1, 1, 1)
    return (x_BAHW - other).mul_(factor).add_(other).clamp_(0, 1)


def brightness(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Apply torchvision's ``adjust_brightness`` with one factor per image."""
    return (x_BAHW * factor_B.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Apply torchvision's ``adjust_contrast`` with one factor per image."""
    return blend(x_BAHW, gray(x_BAHW).mean((1, 2, 3), keepdim=True), factor_B)


def saturation(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Apply torchvision's ``adjust_saturation`` with one factor per image; leave gray images unchanged."""
    return x_BAHW if x_BAHW.shape[1] == 1 else blend(x_BAHW, gray(x_BAHW), factor_B)


def hue(x_BAHW: Tensor, turn_B: Tensor) -> Tensor:
    """Apply torchvision's ``adjust_hue`` with one shift, in turns, per image; leave gray images unchanged."""
    if x_BAHW.shape[1] == 1:
        return x_BAHW
    high, which = x_BAHW.max(1)
    low = x_BAHW.amin(1)
    chroma = high - low
    r, g, b = x_BAHW.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sector = torch.where(which == 0, (g - b) / safe, torch.where(which == 1, 2 + (b - r) / safe, 4 + (r - g) / safe))
    turned = torch.remainder(sector / 6 + turn_B.view(-1, 1, 1), 1) * 6
    # Channel n of HSV to RGB: V - C * clamp(min(k, 4 - k), 0, 1) with k = (n + 6h) mod 6 and n = 5, 3, 1.
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(n + turned, 6)
        channels.append(high - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def normalize(x_BAHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the mean of each channel and divide by its standard deviation."""
    return (x_BAHW - _channels(mean, x_BAHW.device)).div_(_channels(std, x_BAHW.device))


def jitter(x_BAHW: Tensor, colour_4B: tuple[Tensor, ...], gray_B: Tensor) -> Tensor:
    """Apply :func:`brightness`, :func:`contrast`, :func:`saturation` and :func:`hue`, then :func:`gray` to some images.

    Args:
        x_BAHW: Images.
        colour_4B: The amount of each change, ``(B,)`` each.
        gray_B: bool; whether to convert to gray.
    """
    if x_BAHW.device.type == "cuda" and x_BAHW.shape[1] == 3 and has_triton():
        from eman.trainers.accel import gpu_colour

        return gpu_colour.jitter(x_BAHW.contiguous(), colour_4B, gray_B)
    for adjust, amount_B in zip((brightness, contrast, saturation, hue), colour_4B, strict=True):
        x_BAHW = adjust(x_BAHW, amount_B)
    if x_BAHW.shape[1] == 1:
        return x_BAHW
    return torch.where(gray_B.view(-1, 1, 1, 1), gray(x_BAHW).expand_as(x_BAHW), x_BAHW)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel, ``(1, A, 1, 1)``, copied to the device once."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
