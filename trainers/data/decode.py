"""Decode and crop images: random crops for training, center crops for evaluation.

Shapes: n images, P views of each, A channels, S by S pixels.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eman.trainers.views import views
from eman.trainers.views.draws import Draws

#: Shorter side to which evaluations scale images before the center crop, relative to the crop.
MARGIN = 256 / 224

Array = np.ndarray[Any, Any]


def decode(
    encoded: Sequence[bytes], channels: int, native: tuple[int, int] | None = None
) -> tuple[list[Any], list[int]]:
    """Decode images of 1 or 3 channels, and of ``native`` height and width if given, with Pillow.

    Returns:
        Pillow images, and the indices of unreadable ones, for which black images stand in.
    """
    from PIL import Image

    mode = {1: "L", 3: "RGB"}[channels]
    pictures: list[Any] = []
    bad = []
    for place, raw in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(raw)) as image:
                picture = image.convert(mode)
            if native not in (None, (picture.height, picture.width)):
                raise ValueError("the image has another size than the others")
        except Exception:  # Pillow raises many kinds
            bad.append(place)
            picture = Image.new(mode, native[::-1] if native else (1, 1))
        pictures.append(picture)
    return pictures, bad


def random_crops(pictures: Sequence[Any], draws_P: Sequence[Draws], size: int, crop_min: float) -> Array:
    """Return a random resized crop of each Pillow image for each view's draws: uint8, ``(P, n, A, S, S)``.

    ``crop_min`` is the smallest area of a crop, as a fraction of the image's.
    """
    from PIL import Image

    heights = torch.tensor([picture.height for picture in pictures])
    widths = torch.tensor([picture.width for picture in pictures])
    crops: list[Array] = []
    for draws in draws_P:
        boxes_4n = (x.int().tolist() for x in views.crop_boxes(draws, heights, widths, crop_min))
        for picture, top, left, height, width in zip(pictures, *boxes_4n, strict=True):
            part = picture.crop((left, top, left + width, top + height))
            crops.append(to_array(part.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(crops).reshape(len(draws_P), len(pictures), *crops[0].shape)


def to_array(picture: Any) -> Array:
    """Return a Pillow image as uint8, ``(A, H, W)``."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def middle_crop(picture: Any, size: int) -> Any:
    """Apply torchvision's ``Resize`` to 8/7 of ``size``, then ``CenterCrop``, to a Pillow image."""
    from PIL import Image

    short = round(size * MARGIN)
    width, height = (int(short * side / min(picture.size)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
