"""Views of images: batched augmentations whose every random draw is a function of (seed, epoch, sample, view).

Neither workers, nor the slicing of a batch, nor a resume in mid-epoch can change a view. Images are floats in [0, 1]
until :func:`normalize`. A self-supervised view is drawn first (:class:`Changes`) and made then: gray images on a CPU by
the kernel of :mod:`~eman.trainers.pixels`, all others by PyTorch, where crop, flip and blur are small matrices applied
from both sides, one product a batch.

Shapes: B images, A channels, H by W pixels, D draws.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.trainers.fused import kept

_MASK = (1 << 64) - 1

#: Draws that are made at once: those of one self-supervised view.
_BLOCK = 40

#: Solarization inverts what is at least this bright: 128 of 255.
SOLARIZED = 128 / 255


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that holds it."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer: every input bit changes every output bit with probability about one half."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class Draws:
    """Uniform numbers in [0, 1) for a batch: a counter-based hash of (seed, epoch, sample, view, draw number).

    Args:
        seed: The run's seed.
        epoch_B: int64, the epoch of each sample.
        sample_B: int64, each sample's number in its split.
        view: Number of the view; views of one sample are drawn independently.
    """

    def __init__(self, seed: int, epoch_B: Tensor, sample_B: Tensor, view: int) -> None:
        golden = _signed(0x9E3779B97F4A7C15)
        key_B = _mix(epoch_B * 64 + view + _signed(seed * golden))
        self.key_B = _mix(key_B ^ (sample_B * golden))
        self.count = 0
        self._block_BD = self._draw(0, _BLOCK)

    def _draw(self, start: int, stop: int) -> Tensor:
        counter = torch.arange(start + 1, stop + 1, device=self.key_B.device)
        bits = _mix(self.key_B.unsqueeze(1) + counter * _signed(0xD1B54A32D192ED03))
        return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)

    def __call__(self, number: int = 1) -> Tensor:
        """The next ``number`` draws of every sample: float32, ``(B, number)``."""
        start, self.count = self.count, self.count + number
        if self.count <= _BLOCK:
            return self._block_BD[:, start : self.count]
        return self._draw(start, self.count)

    def of(self, part: Tensor) -> "Draws":
        """Fresh draws of some of the samples."""
        other = copy.copy(self)
        other.key_B, other._block_BD, other.count = self.key_B[part], self._block_BD[part], 0
        return other

    def skip(self, number: int) -> None:
        """Passes over draws that were used elsewhere."""
        self.count += number

    def between(self, low: float, high: float) -> Tensor:
        """One draw from [low, high) for every sample: ``(B,)``."""
        return low + (high - low) * self(1)[:, 0]


@dataclass(frozen=True)
class ViewOptions:
    """What a run's specification says about its views; see the fields of the same names in ``RunSpec``.

    ``cropped``: the images were cropped when they were decoded, by the draws that would have cropped them here.
    """

    crop_min: float
    blur_max: float
    strong_ops: int
    cropped: bool = False


def resize_matrix(start_B: Tensor, length_B: Tensor, size: int, out: int, flipped_B: Tensor | None = None) -> Tensor:
    """Bilinear resampling with anti-aliasing of ``size`` pixels' part ``[start, start + length)`` to ``out`` pixels.

    Args:
        start_B: Float32.
        length_B: Float32.
        size: Pixels of the image.
        out: Pixels of the result.
        flipped_B: bool; where true, the result is in reverse.

    Returns:
        ``(B, out, size)``; rows add up to 1. ``rows @ image @ columns.T`` is torchvision's ``resized_crop``.
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


def crop_boxes(draws: Draws, height: Tensor | int, width: Tensor | int, crop_min: float) -> tuple[Tensor, ...]:
    """Torchvision's ``RandomResizedCrop.get_params``: the first of ten tries that fits, else the whole image.

    Args:
        draws: 22 of them are used.
        height: Of the images: one number for all, or int64 ``(B,)``.
        width: Likewise.
        crop_min: Smallest share of an image's area.

    Returns:
        Top, left, height and width of the boxes in pixels, float32, ``(B,)`` each.
    """
    tries = draws(20).view(-1, 10, 2)
    height_B, width_B = (torch.as_tensor(x, device=tries.device).float().expand(len(tries)) for x in (height, width))
    area = (height_B * width_B).unsqueeze(1) * (crop_min + (1 - crop_min) * tries[..., 0])
    ratio = torch.exp(math.log(3 / 4) + math.log(16 / 9) * tries[..., 1])
    w = torch.round(torch.sqrt(area * ratio))
    h = torch.round(torch.sqrt(area / ratio))
    fits = (w >= 1) & (w <= width_B.unsqueeze(1)) & (h >= 1) & (h <= height_B.unsqueeze(1))
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    w_B = torch.where(found, w.gather(1, first)[:, 0], width_B)
    h_B = torch.where(found, h.gather(1, first)[:, 0], height_B)
    corner = draws(2)
    return torch.floor(corner[:, 0] * (height_B - h_B + 1)), torch.floor(corner[:, 1] * (width_B - w_B + 1)), h_B, w_B


def _crop_and_flip(x_BAHW: Tensor, box_4B: tuple[Tensor, ...] | None, flipped_B: Tensor) -> Tensor:
    if box_4B is None:
        return torch.where(flipped_B.view(-1, 1, 1, 1), x_BAHW.flip(3), x_BAHW)
    top, left, h, w = box_4B
    height, width = x_BAHW.shape[2:]
    rows = resize_matrix(top, h, height, height)
    columns = resize_matrix(left, w, width, width, flipped_B)
    return _from_both_sides(rows, x_BAHW, columns)


def _from_both_sides(rows: Tensor, x_BAHW: Tensor, columns: Tensor) -> Tensor:
    batch, channels, height, width = x_BAHW.shape
    x = x_BAHW.reshape(batch, channels * height, width) @ columns.transpose(1, 2)
    if channels == 1:
        return (rows @ x).unsqueeze(1)
    return rows.unsqueeze(1) @ x.view(batch, channels, height, -1)


@lru_cache(maxsize=8)
def _distances(size: int, radius: int) -> tuple[Tensor, Tensor]:
    """For a blur of that radius with reflected borders: source pixel of each tap, and squared distance of each tap."""
    tap = torch.arange(-radius, radius + 1)
    source = (torch.arange(size).unsqueeze(1) + tap).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    return F.one_hot(source, size).float(), tap.float().square()


def blur(x_BAHW: Tensor, sigma_B: Tensor, apply_B: Tensor) -> Tensor:
    """Gaussian blur with a sigma of its own for each image; reflected borders, as torchvision's ``gaussian_blur``.

    Args:
        x_BAHW: Images.
        sigma_B: Standard deviations in pixels.
        apply_B: bool; the other images stay as they are.
    """

    def matrix(size: int) -> Tensor:
        radius = min(3, size - 1)
        one_hot, squares = (t.to(x_BAHW.device) for t in _distances(size, radius))
        weight = torch.softmax(-squares / (2 * sigma_B.clamp(min=1e-3).square().unsqueeze(1)), 1)
        weight = torch.where(apply_B.unsqueeze(1), weight, (squares == 0).float())
        return torch.einsum("bt,hts->bhs", weight, one_hot)

    height, width = x_BAHW.shape[2:]
    rows = matrix(height)
    return _from_both_sides(rows, x_BAHW, rows if width == height else matrix(width))


def _gray(x_BAHW: Tensor) -> Tensor:
    if x_BAHW.shape[1] == 1:
        return x_BAHW
    weight = torch.tensor([0.2989, 0.587, 0.114], device=x_BAHW.device).view(1, 3, 1, 1)
    return (x_BAHW * weight).sum(1, keepdim=True)


def _blend(x_BAHW: Tensor, other: Tensor, factor_B: Tensor) -> Tensor:
    factor = factor_B.view(-1, 1, 1, 1)
    return (x_BAHW - other).mul_(factor).add_(other).clamp_(0, 1)


def brightness(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Torchvision's ``adjust_brightness`` with one factor an image."""
    return (x_BAHW * factor_B.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Torchvision's ``adjust_contrast`` with one factor an image."""
    return _blend(x_BAHW, _gray(x_BAHW).mean((1, 2, 3), keepdim=True), factor_B)


def saturation(x_BAHW: Tensor, factor_B: Tensor) -> Tensor:
    """Torchvision's ``adjust_saturation`` with one factor an image; no change to gray images."""
    return x_BAHW if x_BAHW.shape[1] == 1 else _blend(x_BAHW, _gray(x_BAHW), factor_B)


def hue(x_BAHW: Tensor, turn_B: Tensor) -> Tensor:
    """Torchvision's ``adjust_hue`` with one shift (in turns) an image; no change to gray images."""
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


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is drawn for each image of a batch, and done in this order. ``None`` stands for nothing.

    Attributes:
        box_4B: Top, left, height and width of the part that is cut out and resized to the whole, in pixels.
        flipped_B: bool, whether left and right are exchanged.
        colour_4B: Factors of brightness, contrast and saturation, and the turn of the hue. The order is fixed;
            torchvision shuffles it.
        gray_B: bool.
        sigma_B: Standard deviation of the blur in pixels; 0 for an image that is not blurred.
        solarized_B: bool.
    """

    box_4B: tuple[Tensor, ...] | None
    flipped_B: Tensor
    colour_4B: tuple[Tensor, ...] | None = None
    gray_B: Tensor | None = None
    sigma_B: Tensor | None = None
    solarized_B: Tensor | None = None


def changed(x_BAHW: Tensor, changes: Changes) -> Tensor:
    """The images with the changes made."""
    if _by_kernel(x_BAHW):
        return _changed_gray(x_BAHW, changes)
    x = _crop_and_flip(x_BAHW, changes.box_4B, changes.flipped_B)
    if changes.colour_4B is not None:
        for adjust, amount_B in zip((brightness, contrast, saturation, hue), changes.colour_4B, strict=True):
            x = adjust(x, amount_B)
    if changes.gray_B is not None and x.shape[1] > 1:
        x = torch.where(changes.gray_B.view(-1, 1, 1, 1), _gray(x).expand_as(x), x)
    if changes.sigma_B is not None:
        x = blur(x, changes.sigma_B, changes.sigma_B > 0)
    if changes.solarized_B is not None:
        x = torch.where(changes.solarized_B.view(-1, 1, 1, 1) & (x >= SOLARIZED), 1 - x, x)
    return x


def _by_kernel(x_BAHW: Tensor) -> bool:
    """Whether the kernel takes these images: gray ones on the CPU."""
    on_cpu = x_BAHW.device.type == "cpu" and x_BAHW.dtype == torch.float32
    return on_cpu and x_BAHW.shape[1] == 1 and min(x_BAHW.shape[2:]) > 1


def _changed_gray(x_BAHW: Tensor, changes: Changes) -> Tensor:
    batch, _, height, width = x_BAHW.shape
    zero_B, one_B = torch.zeros(batch), torch.ones(batch)
    brightness_B, contrast_B = (changes.colour_4B or (one_B, one_B))[:2]
    y_BAHW = torch.empty(x_BAHW.shape)
    told = (
        x_BAHW.contiguous()[:, 0],
        y_BAHW[:, 0],
        *(changes.box_4B or (zero_B, zero_B, one_B * height, one_B * width)),
        changes.flipped_B,
        brightness_B,
        contrast_B,
        zero_B if changes.sigma_B is None else changes.sigma_B,
        zero_B > 0 if changes.solarized_B is None else changes.solarized_B,
    )
    _kernel()(*(t.numpy() for t in told), SOLARIZED)
    return y_BAHW


@cache
def _kernel() -> Any:
    from eman.trainers import pixels  # Numba takes a while to import, and a GPU needs none

    return kept(pixels.compiled)


def _place(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> dict[str, Any]:
    """Random resized crop (area ``crop_min`` to 1, ratio 3/4 to 4/3) and horizontal flip."""
    if options.cropped:
        draws.skip(22)  # those of the boxes
    height, width = x_BAHW.shape[2:]
    box_4B = None if options.cropped else crop_boxes(draws, height, width, options.crop_min)
    return {"box_4B": box_4B, "flipped_B": draws(1)[:, 0] < 0.5}


def weak(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """FixMatch's weak view: crop and flip."""
    return changed(x_BAHW, Changes(**_place(x_BAHW, draws, options)))


def moco(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """A MoCo v2 view: crop, jitter (0.4, 0.4, 0.4, 0.1) with p 0.8, gray 0.2, blur 0.5, flip."""
    return _self_supervised(x_BAHW, draws, options, (0.4, 0.4, 0.4, 0.1), blurred=0.5, solarized=0.0)


def byol_first(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """BYOL's first view: blur always, no solarization."""
    return _self_supervised(x_BAHW, draws, options, (0.4, 0.4, 0.2, 0.1), blurred=1.0, solarized=0.0)


def byol_second(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """BYOL's second view: blur with p 0.1, solarization with p 0.2."""
    return _self_supervised(x_BAHW, draws, options, (0.4, 0.4, 0.2, 0.1), blurred=0.1, solarized=0.2)


def _self_supervised(
    x_BAHW: Tensor,
    draws: Draws,
    options: ViewOptions,
    strength: tuple[float, float, float, float],
    *,
    blurred: float,
    solarized: float,
) -> Tensor:
    drawn = _place(x_BAHW, draws, options)
    jittered_B = (draws(1)[:, 0] < 0.8).float()
    factors = [1 + jittered_B * draws.between(-amount, amount) for amount in strength[:3]]
    drawn["colour_4B"] = (*factors, jittered_B * draws.between(-strength[3], strength[3]))
    drawn["gray_B"] = draws(1)[:, 0] < 0.2
    if options.blur_max:
        # The official sigma runs from 0.1 to 2 at 224 pixels; its lower end is the same share of the upper one here.
        sigma_B = draws.between(options.blur_max / 20, options.blur_max)
        drawn["sigma_B"] = sigma_B * (draws(1)[:, 0] < blurred)
    if solarized:
        drawn["solarized_B"] = draws(1)[:, 0] < solarized
    return changed(x_BAHW, Changes(**drawn))


# RandAugment ----------------------------------------------------------------------------------------------------------
# Each operation takes the images that drew it and a level in (0, 1). Ranges are those of the pool that FixMatch's
# PyTorch versions use: levels are one of 1..9 tenths of the largest value.


def _autocontrast(x: Tensor, _level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def _equalize(x: Tensor, _level: Tensor) -> Tensor:
    """Histogram equalization of each channel, by PIL's rule."""
    batch, channels, height, width = x.shape
    pixel = (x.reshape(batch * channels, -1) * 255).round().long()
    histogram = torch.zeros(batch * channels, 256, device=x.device).scatter_add_(
        1, pixel, torch.ones_like(pixel).float()
    )
    last = histogram.gather(1, (255 - (histogram.flip(1) > 0).int().argmax(1, keepdim=True)))
    step = torch.floor((height * width - last) / 255)
    table = torch.floor((histogram.cumsum(1) - histogram + torch.floor(step / 2)) / step.clamp(min=1)).clamp(0, 255)
    out = torch.where(step > 0, table.gather(1, pixel), pixel.float())
    return (out / 255).view(batch, channels, height, width)


def _posterize(x: Tensor, level: Tensor) -> Tensor:
    kept = (4 + torch.floor(4 * level)).view(-1, 1, 1, 1)  # 4 to 7 bits of 8
    step = torch.exp2(8 - kept)
    return torch.floor((x * 255).round() / step) * step / 255


def _sharpness(x: Tensor, level: Tensor) -> Tensor:
    # Sums of shifted images: a convolution's last bits would depend on how many images it is given.
    height, width = x.shape[2:]
    middle = x[:, :, 1:-1, 1:-1]
    neighbours = [x[:, :, i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = (sum(neighbours[1:], neighbours[0]) + 4 * middle) / 13
    return _blend(x, smooth, 0.05 + 0.9 * level)


def _solarize(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x >= (1 - level).view(-1, 1, 1, 1), 1 - x, x)


def _solarize_add(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x < 128 / 255, (x + (level * 110 / 255).view(-1, 1, 1, 1)).clamp(0, 1), x)


_POINTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "brightness": lambda x, level: brightness(x, 0.05 + 0.9 * level),
    "color": lambda x, level: saturation(x, 0.05 + 0.9 * level),
    "contrast": lambda x, level: contrast(x, 0.05 + 0.9 * level),
    "equalize": _equalize,
    "invert": lambda x, _level: 1 - x,
    "posterize": _posterize,
    "sharpness": _sharpness,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "identity": lambda x, _level: x,
}
_GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

#: The 16 operations of RandAugment's pool.
RANDAUGMENT_POOL = (*_POINTWISE, *_GEOMETRIC)


def affine(x_BAHW: Tensor, operation_B: Tensor, amount_B: Tensor) -> Tensor:
    """One geometric operation an image, all in one resampling; what comes from outside is black.

    Args:
        x_BAHW: Images.
        operation_B: Index into rotate (30 degrees at amount 1), shear x, shear y (0.3), translate x, translate y (0.45
            of the side).
        amount_B: Signed amount in (-1, 1).
    """
    angle = torch.where(operation_B == 0, amount_B * math.radians(30), 0.0)
    matrix = torch.zeros(len(x_BAHW), 2, 3, device=x_BAHW.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle)
    matrix[:, 0, 1] = torch.where(operation_B == 1, 0.3 * amount_B, -torch.sin(angle))
    matrix[:, 1, 0] = torch.where(operation_B == 2, 0.3 * amount_B, torch.sin(angle))
    matrix[:, 0, 2] = torch.where(operation_B == 3, 0.9 * amount_B, 0.0)  # grid coordinates span 2 over a side
    matrix[:, 1, 2] = torch.where(operation_B == 4, 0.9 * amount_B, 0.0)
    grid = F.affine_grid(matrix, list(x_BAHW.shape), align_corners=False)
    return F.grid_sample(x_BAHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def randaugment(x_BAHW: Tensor, draws: Draws, operations: int) -> Tensor:
    """RandAugment: ``operations`` operations of the pool in a row, each at a level of 1..9 tenths, always applied."""
    for _ in range(operations):
        choice_B, level_B, sign_B = draws(3).unbind(1)
        operation_B = torch.floor(choice_B * len(RANDAUGMENT_POOL)).long()
        level_B = (torch.floor(level_B * 9) + 1) / 10
        out = x_BAHW.clone()
        for number, apply in enumerate(_POINTWISE.values()):
            chosen = (operation_B == number).nonzero()[:, 0]
            if len(chosen):
                out[chosen] = apply(x_BAHW[chosen], level_B[chosen])
        chosen = (operation_B >= len(_POINTWISE)).nonzero()[:, 0]
        if len(chosen):
            signed = torch.where(sign_B < 0.5, -level_B, level_B)
            out[chosen] = affine(x_BAHW[chosen], operation_B[chosen] - len(_POINTWISE), signed[chosen])
        x_BAHW = out
    return x_BAHW


def strong(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """FixMatch's strong view: the weak view's crop and flip, then RandAugment."""
    return randaugment(weak(x_BAHW, draws, options), draws, options.strong_ops)


#: Views by name.
VIEWS: dict[str, Callable[[Tensor, Draws, ViewOptions], Tensor]] = {
    "weak": weak,
    "strong": strong,
    "moco": moco,
    "byol_first": byol_first,
    "byol_second": byol_second,
}


def normalize(x_BAHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Zero mean and unit variance over the training set, channel by channel."""
    shape = (1, -1, 1, 1)
    mean_A, std_A = (torch.tensor(v, device=x_BAHW.device).view(shape) for v in (mean, std))
    return (x_BAHW - mean_A).div_(std_A)
