"""Views: batched augmentations whose random draws are functions of (seed, epoch, sample, view).

Images are floats in [0, 1]. A view is first drawn as :class:`Changes`, then computed with
:mod:`~eman.trainers.views.transforms`.

Shapes: B images, A channels, H by W pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eman.trainers.views import transforms
from eman.trainers.views.draws import Draws
from eman.trainers.views.options import ViewOptions
from eman.trainers.views.randaugment import POOLS, randaugment

#: Solarization inverts values of at least 128 of 255.
SOLARIZED = 128 / 255


def crop_boxes(draws: Draws, height: Tensor | int, width: Tensor | int, crop_min: float) -> tuple[Tensor, ...]:
    """Draw boxes as ``RandomResizedCrop.get_params`` of torchvision: the first of ten tries that fits, or else the
    largest box in the middle of the image whose ratio is between 3/4 and 4/3.

    Args:
        draws: Random draws, of which 22 are used.
        height: Height of the images in pixels: one number for all, or int64, ``(B,)``.
        width: Width, likewise.
        crop_min: Smallest area of a box, as a fraction of the image's.

    Returns:
        Top, left, height and width of the boxes in pixels, float32, ``(B,)`` each.
    """
    tries = draws(20).view(-1, 10, 2)
    height_B, width_B = (
        x.float() if isinstance(x, Tensor) else torch.full((len(tries),), float(x), device=tries.device)
        for x in (height, width)
    )
    area = (height_B * width_B).unsqueeze(1) * (crop_min + (1 - crop_min) * tries[..., 0])
    ratio = torch.exp(math.log(3 / 4) + math.log(16 / 9) * tries[..., 1])
    w = torch.round(torch.sqrt(area * ratio))
    h = torch.round(torch.sqrt(area / ratio))
    fits = (w >= 1) & (w <= width_B.unsqueeze(1)) & (h >= 1) & (h <= height_B.unsqueeze(1))
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    w_B = torch.where(any_fits, w.gather(1, first)[:, 0], torch.minimum(width_B, torch.round(height_B * (4 / 3))))
    h_B = torch.where(any_fits, h.gather(1, first)[:, 0], torch.minimum(height_B, torch.round(width_B / (3 / 4))))
    corner, free = draws(2), torch.stack([height_B - h_B, width_B - w_B], 1)
    top_B, left_B = torch.where(any_fits.unsqueeze(1), torch.floor(corner * (free + 1)), free // 2).unbind(1)
    return top_B, left_B, h_B, w_B


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changes drawn for each image of a batch, in order of application; ``None`` skips a change.

    Attributes:
        box_4B: Top, left, height and width in pixels of the crop, which is resized to the image's size.
        moved_2B: int64, pixels by which images are shifted up and left, with reflected padding.
        flipped_B: bool; whether to flip horizontally.
        colour_4B: Factors of brightness, contrast and saturation, and the hue's shift in turns, applied in this order;
            torchvision shuffles them.
        gray_B: bool; whether to convert to gray after that; given with ``colour_4B``.
        sigma_B: Standard deviation of the blur in pixels; 0 for no blur.
        largest_sigma: A bound on ``sigma_B``.
        solarized_B: bool; whether to solarize.
    """

    box_4B: tuple[Tensor, ...] | None = None
    moved_2B: tuple[Tensor, ...] | None = None
    flipped_B: Tensor
    colour_4B: tuple[Tensor, ...] | None = None
    gray_B: Tensor | None = None
    sigma_B: Tensor | None = None
    largest_sigma: float = 0.0
    solarized_B: Tensor | None = None


def changed(x_BAHW: Tensor, changes: Changes) -> Tensor:
    """Apply changes to images."""
    if changes.moved_2B is None:
        x = transforms.crop_and_flip(x_BAHW, changes.box_4B, changes.flipped_B)
    else:
        x = transforms.move_and_flip(x_BAHW, changes.moved_2B, changes.flipped_B)
    if changes.colour_4B is not None and changes.gray_B is not None:
        x = transforms.jitter(x, changes.colour_4B, changes.gray_B)
    if changes.sigma_B is not None:
        x = transforms.blur(x, changes.sigma_B, changes.largest_sigma)
    if changes.solarized_B is not None:
        x = torch.where(changes.solarized_B.view(-1, 1, 1, 1) & (x >= SOLARIZED), 1 - x, x)
    return x


def _place(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> dict[str, Any]:
    """Draw a horizontal flip, and a random resized crop (area ``crop_min`` to 1, ratio 3/4 to 4/3) or a shift."""
    height, width = x_BAHW.shape[2:]
    drawn: dict[str, Any] = {}
    if options.crop_padding is not None:
        most_2 = [round(options.crop_padding * side) for side in (height, width)]
        pairs = zip(draws(2).unbind(1), most_2, strict=True)
        drawn["moved_2B"] = tuple(torch.floor(draw_B * (2 * most + 1)).long() - most for draw_B, most in pairs)
    elif options.cropped:
        draws.skip(22)  # used by crop_boxes when the images were decoded
    else:
        drawn["box_4B"] = crop_boxes(draws, height, width, options.crop_min)
    return {**drawn, "flipped_B": draws(1)[:, 0] < 0.5}


def weak(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """Make FixMatch's weak view: crop and flip."""
    return changed(x_BAHW, Changes(**_place(x_BAHW, draws, options)))


def moco(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """Make a MoCo v2 view: crop, jitter (0.4, 0.4, 0.4, 0.1) with p 0.8, gray 0.2, blur 0.5, flip."""
    return _self_supervised(x_BAHW, draws, options, (0.4, 0.4, 0.4, 0.1), blurred=0.5, solarized=0.0)


def byol_first(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """Make BYOL's first view: blur always, no solarization."""
    return _self_supervised(x_BAHW, draws, options, (0.4, 0.4, 0.2, 0.1), blurred=1.0, solarized=0.0)


def byol_second(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """Make BYOL's second view: blur with p 0.1, solarization with p 0.2."""
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
        # The official sigma is 0.1 to 2 at 224 pixels; keep the ratio of both ends.
        sigma_B = draws.between(options.blur_max / 20, options.blur_max)
        drawn["sigma_B"] = sigma_B * (draws(1)[:, 0] < blurred)
        drawn["largest_sigma"] = options.blur_max
    if solarized:
        drawn["solarized_B"] = draws(1)[:, 0] < solarized
    return changed(x_BAHW, Changes(**drawn))


def strong(x_BAHW: Tensor, draws: Draws, options: ViewOptions) -> Tensor:
    """Make FixMatch's strong view: a crop and a flip as in the weak view, then RandAugment, then Cutout."""
    x_BAHW = randaugment(weak(x_BAHW, draws, options), draws, options.strong_ops, POOLS[options.strong_pool])
    if not options.cutout:
        return x_BAHW
    side_B, (height, width) = draws.between(0, options.cutout) * x_BAHW.shape[3], x_BAHW.shape[2:]
    return transforms.cutout(x_BAHW, draws.between(0, height), draws.between(0, width), side_B)


#: Views by name.
VIEWS: dict[str, Callable[[Tensor, Draws, ViewOptions], Tensor]] = {
    "weak": weak,
    "strong": strong,
    "moco": moco,
    "byol_first": byol_first,
    "byol_second": byol_second,
}
