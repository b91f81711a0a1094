"""RandAugment on batches: each operation is applied to the images that drew it.

The pool and its ranges are those of FixMatch's PyTorch versions; a level is 0.1, 0.2, ..., 0.9 of the largest amount.

Shapes: B images, A channels, H by W pixels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.trainers.views.draws import Draws
from eman.trainers.views.transforms import blend, brightness, contrast, saturation


def _autocontrast(x: Tensor, _level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def _equalize(x: Tensor, _level: Tensor) -> Tensor:
    """Equalize the histogram of each channel, as Pillow does."""
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
    # Sums of shifted images, since the last bits of a convolution depend on the number of images.
    height, width = x.shape[2:]
    middle = x[:, :, 1:-1, 1:-1]
    neighbours = [x[:, :, i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = (sum(neighbours[1:], neighbours[0]) + 4 * middle) / 13
    return blend(x, smooth, 0.05 + 0.9 * level)


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
    """Apply one geometric operation per image, in one bilinear resampling; outside pixels are black.

    Args:
        x_BAHW: Images, floats in [0, 1].
        operation_B: int64: 0 rotate (30 degrees at amount 1), 1 shear x and 2 shear y (0.3), 3 translate x and 4
            translate y (0.45 of the side).
        amount_B: Signed amounts in (-1, 1).

    Returns:
        Images of the same shape.
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
    """Apply ``operations`` random operations of the pool in sequence to each image, floats in [0, 1]."""
    for _ in range(operations):
        choice_B, level_B, sign_B = draws(3).unbind(1)
        operation_B = torch.floor(choice_B * len(RANDAUGMENT_POOL)).long()
        level_B = (torch.floor(level_B * 9) + 1) / 10
        out = x_BAHW.clone()
        signed_B = torch.where(sign_B < 0.5, -level_B, level_B)
        shift_B = operation_B - len(_POINTWISE)
        out = x_BAHW.clone()
        for number, apply in enumerate(_POINTWISE.values()):
            _replace(out, operation_B == number, apply, x_BAHW, level_B)
        _replace(out, shift_B >= 0, affine, x_BAHW, shift_B, signed_B)
        x_BAHW = out
    return x_BAHW


def _replace(out: Tensor, chosen_B: Tensor, apply: Callable[..., Tensor], *arguments_B: Tensor) -> None:
    """Replace the chosen images with ``apply(*arguments)``."""
    if out.device.type == "cuda":  # computing all is faster than waiting for the number of the chosen
        out.copy_(torch.where(chosen_B.view(-1, 1, 1, 1), apply(*arguments_B), out))
        return
    index = chosen_B.nonzero()[:, 0]
    if len(index):
        out[index] = apply(*(x_B[index] for x_B in arguments_B))
