"""RandAugment on batches, on bytes as in Pillow: each operation is applied to the images that drew it.

A level is a share of an operation's largest amount. Operations whose result for a pixel depends on
the pixel and its channel's histogram alone become one table of 256 values per image and channel.

Shapes: B images, A channels, H by W pixels, P = H W.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from eman.trainers.views.draws import Draws


@dataclass(frozen=True)
class Pool:
    """A set of operations and their ranges.

    Attributes:
        operations: Names, in :data:`TABLES`, :data:`BLENDS` or :data:`WARPS`.
        low, span: Brightness, colour, contrast and sharpness are multiplied by ``low + span * level``.
        shift: Largest translation, as a fraction of the side.
        tenths: Whether levels are 1, 2, ..., 9 tenths and translations are truncated to whole pixels, as in the
            official code. Otherwise levels are any numbers from 0 to 1 and translations are rounded.
    """

    operations: tuple[str, ...]
    low: float
    span: float
    shift: float
    tenths: bool


@dataclass(frozen=True)
class _Bytes:
    """Images as bytes, with what tables are made from.

    Attributes:
        x_BAP: int32, values 0 to 255.
        name_B: int64, index of the image's operation in its pool.
        level_B: float64, 0 to 1.
        positive_B: bool, the sign of amounts that have one.
        factor_B: float32, the factor of brightness, colour, contrast and sharpness.
    """

    x_BAP: Tensor
    name_B: Tensor
    level_B: Tensor
    positive_B: Tensor
    factor_B: Tensor

    def take(self, index: Tensor) -> "_Bytes":
        """Return the images at the given indices."""
        return _Bytes(*(x_B[index] for x_B in (self.x_BAP, self.name_B, self.level_B, self.positive_B, self.factor_B)))

    @cached_property
    def index_BAP(self) -> Tensor:  # noqa: N802
        """The values as indices, int64."""
        return self.x_BAP.long()

    @cached_property
    def counts(self) -> Tensor:
        """How often each value occurs in each channel, int32, ``(B, A, 256)``."""
        counts = torch.zeros(*self.x_BAP.shape[:2], 256, dtype=torch.int32, device=self.x_BAP.device)
        return counts.scatter_add_(2, self.index_BAP, torch.ones_like(self.x_BAP))

    def values(self) -> Tensor:
        """Return 0 to 255, int32, ``(1, 1, 256)``."""
        return torch.arange(256, dtype=torch.int32, device=self.x_BAP.device).view(1, 1, -1)

    def steps(self, largest: int) -> Tensor:
        """Return the level in whole steps of an amount, int32, ``(B, 1, 1)``."""
        return torch.floor(self.level_B * largest + 1e-9).int().view(-1, 1, 1)


def _blend(x: Tensor, other: Tensor, factor_B: Tensor) -> Tensor:
    """Return ``other + factor (x - other)`` in float32, clamped and cut to a byte: Pillow's ``Image.blend``."""
    factor = factor_B.view(-1, 1, 1)
    return (other.float() + factor * (x - other).float()).clamp_(0, 255).int()


def _gray(x_BAP: Tensor) -> Tensor:
    """Return luminance in bytes, ``(B, 1, P)``: Pillow's conversion to "L"."""
    if x_BAP.shape[1] == 1:
        return x_BAP
    r, g, b = x_BAP.unbind(1)
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).unsqueeze(1)


def _autocontrast(images: _Bytes) -> Tensor:
    present = images.counts > 0
    low = present.int().argmax(2, keepdim=True).double()
    high = 255 - present.flip(2).int().argmax(2, keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / x would round a reciprocal first
    table = (images.values() * scale - low * scale).clamp(0, 255).int()
    return torch.where(high > low, table, images.values())


def _equalize(images: _Bytes) -> Tensor:
    count = images.counts
    last = count.gather(2, 255 - (count.flip(2) > 0).int().argmax(2, keepdim=True))
    step = (images.x_BAP.shape[2] - last) // 255
    before = count.cumsum(2, dtype=torch.int32) - count
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table, images.values())


def _contrast(images: _Bytes) -> Tensor:
    mean = torch.floor(_gray(images.x_BAP).double().mean((1, 2)) + 0.5).int().view(-1, 1, 1)
    return _blend(images.values(), mean, images.factor_B)


def _brightness(images: _Bytes) -> Tensor:
    return _blend(images.values(), torch.zeros_like(images.values()), images.factor_B)


def _solarize(images: _Bytes) -> Tensor:
    value = images.values()
    return torch.where(value < 256 - images.steps(256), value, 255 - value)


def _solarize_add(images: _Bytes) -> Tensor:
    amount = images.steps(110)
    moved = (images.values() + torch.where(images.positive_B.view(-1, 1, 1), amount, -amount)).clamp(0, 255)
    return torch.where(moved < 128, moved, 255 - moved)


def _posterize(images: _Bytes) -> Tensor:
    shift = 4 - images.steps(4)  # keep 4 to 7 bits of 8
    return (images.values() >> shift) << shift


#: Operations as tables, ``(B, A or 1, 256)``.
TABLES: dict[str, Callable[[_Bytes], Tensor]] = {
    "autocontrast": _autocontrast,
    "brightness": _brightness,
    "contrast": _contrast,
    "equalize": _equalize,
    "identity": lambda images: images.values(),
    "invert": lambda images: 255 - images.values(),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
}


def _colour(images: _Bytes, height: int) -> Tensor:
    return _blend(images.x_BAP, _gray(images.x_BAP).expand_as(images.x_BAP), images.factor_B)


def _sharpness(images: _Bytes, height: int) -> Tensor:
    x = images.x_BAP.unflatten(2, (height, -1))
    smooth, width = x.clone(), x.shape[3]
    if height > 2 and width > 2:
        neighbours = [x[:, :, i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
        total = sum(neighbours[1:], neighbours[0]) + 4 * x[:, :, 1:-1, 1:-1]
        smooth[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26  # round half up
    return _blend(images.x_BAP, smooth.flatten(2), images.factor_B)


#: Operations that blend images, ``(B, A, P)``.
BLENDS: dict[str, Callable[..., Tensor]] = {"color": _colour, "sharpness": _sharpness}

#: Operations that move pixels.
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

_COMMON = (
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "identity",
    "posterize",
    "sharpness",
    "solarize",
)

#: Pools by name: the official code's for ImageNet, and that of FixMatch's paper for small images, as in USB
#: (microsoft/Semi-supervised-learning, semilearn/datasets/augmentation/randaugment.py).
POOLS = {
    "imagenet": Pool((*_COMMON, "invert", "solarize_add", *WARPS), low=0.1, span=1.8, shift=0.45, tenths=True),
    "cifar": Pool((*_COMMON, *WARPS), low=0.05, span=0.9, shift=0.3, tenths=False),
}


def _sources(warp_B: Tensor, amount_B: Tensor, pool: Pool, height: int, width: int) -> Tensor:
    """Return the pixel from which each pixel is copied, or -1 for black: int64, ``(B, P)``.

    Args:
        warp_B: Index in :data:`WARPS`. At amount 1: rotation by 30 degrees, shear by 0.3 about the corner, translation
            by ``pool.shift`` of the side.
        amount_B: float64, signed.
        pool: The operations.
        height: H.
        width: W.
    """
    # Pillow turns counterclockwise by a positive angle, and inverts the map: from a pixel to its source.
    angle = torch.where(warp_B == 0, -amount_B * math.radians(30), 0.0)
    cos, sin, one = torch.cos(angle), torch.sin(angle), torch.ones_like(amount_B)
    shear_x, shear_y = (torch.where(warp_B == n, 0.3 * amount_B, 0.0) for n in (1, 2))
    move_x, move_y = (
        torch.where(warp_B == n, _whole(pool.shift * amount_B * side, pool.tenths), 0.0)
        for n, side in ((3, width), (4, height))
    )
    turned = warp_B == 0
    a, b, d, e = torch.where(turned, cos, one), sin + shear_x, shear_y - sin, torch.where(turned, cos, one)
    middle_x, middle_y = width / 2, height / 2
    c = torch.where(turned, middle_x - cos * middle_x - sin * middle_y, move_x)
    f = torch.where(turned, middle_y + sin * middle_x - cos * middle_y, move_y)

    def fixed(value: Tensor) -> Tensor:
        return torch.floor(value * 65536 + 0.5).long().view(-1, 1, 1)

    row, column = (
        torch.arange(height, device=a.device).view(1, -1, 1),
        torch.arange(width, device=a.device).view(1, 1, -1),
    )
    x = (fixed(a) * column + fixed(b) * row + fixed(c + (a + b) / 2)) >> 16
    y = (fixed(d) * column + fixed(e) * row + fixed(f + (d + e) / 2)) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, y * width + x, -1).flatten(1)


def _whole(pixels_B: Tensor, truncate: bool) -> Tensor:
    """Return translations in whole pixels, truncated or rounded."""
    return torch.trunc(pixels_B + 1e-9 * pixels_B.sign()) if truncate else torch.floor(pixels_B + 0.5)


def _warped(images: _Bytes, pool: Pool, height: int) -> Tensor:
    x_BAP, amount_B = images.x_BAP, torch.where(images.positive_B, images.level_B, -images.level_B)
    warp_B = images.name_B - pool.operations.index(WARPS[0])
    source_BP = _sources(warp_B, amount_B, pool, height, x_BAP.shape[2] // height)
    moved = x_BAP.gather(2, source_BP.clamp(min=0).unsqueeze(1).expand_as(x_BAP))
    return torch.where(source_BP.unsqueeze(1) >= 0, moved, 0)


def apply_operations(x_BAHW: Tensor, name_B: Tensor, level_B: Tensor, positive_B: Tensor, pool: Pool) -> Tensor:
    """Apply one operation to each image.

    Args:
        x_BAHW: int32, values 0 to 255.
        name_B: int64, index in ``pool.operations``.
        level_B: float64, 0 to 1.
        positive_B: bool, the sign of amounts that have one.
        pool: The operations.

    Returns:
        Images of the same shape and type.
    """
    height = x_BAHW.shape[2]
    x_BAP = x_BAHW.flatten(2)
    images = _Bytes(x_BAP, name_B, level_B, positive_B, (pool.low + pool.span * level_B).float())
    chosen = {name: name_B == number for number, name in enumerate(pool.operations)}
    table = images.values().expand(*x_BAP.shape[:2], -1).contiguous()
    for name in pool.operations:
        if name in TABLES and name != "identity":
            table = _replaced(table, chosen[name], images, TABLES[name])
    out = table.gather(2, images.index_BAP)
    for name, blend in BLENDS.items():
        out = _replaced(out, chosen[name], images, partial(blend, height=height))
    is_warp_B = name_B >= pool.operations.index(WARPS[0])
    out = _replaced(out, is_warp_B, images, partial(_warped, pool=pool, height=height))
    return out.view(x_BAHW.shape)


def _replaced(target: Tensor, chosen_B: Tensor, images: _Bytes, compute: Callable[[_Bytes], Tensor]) -> Tensor:
    """Return the target, with what `compute` makes of the chosen images in their places."""
    if target.device.type == "cuda":  # to compute all is faster than to wait for the number of the chosen
        return torch.where(chosen_B.view(-1, 1, 1), compute(images), target)
    index = chosen_B.nonzero()[:, 0]
    if len(index):
        target[index] = compute(images.take(index))
    return target


def randaugment(x_BAHW: Tensor, draws: Draws, operations: int, pool: Pool) -> Tensor:
    """Apply ``operations`` random operations of the pool in sequence to each image.

    Args:
        x_BAHW: Images, floats in [0, 1], which are rounded to bytes.
        draws: Random draws, of which three are used for each operation.
        operations: Number of operations.
        pool: The operations.

    Returns:
        Images of the same shape, multiples of 1/255.
    """
    x = (x_BAHW * 255).round_().int()
    for _ in range(operations):
        choice_B, level_B, sign_B = draws(3).unbind(1)
        name_B = torch.floor(choice_B * len(pool.operations)).long()
        level_B = (torch.floor(level_B.double() * 9) + 1) / 10 if pool.tenths else level_B.double()
        x = apply_operations(x, name_B, level_B, sign_B >= 0.5, pool)
    return x.to(x_BAHW.dtype).div_(255)
