"""Image files as a network's input.

Shapes: A channels, H by W pixels.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.trainers.data.decode import middle_crop
from eman.trainers.data.splits import AnySplit


def open_picture(path: Path) -> Any:
    """Return a picture, upright; raise `UserError` if there is none."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of absurd sizes
            with Image.open(path) as image:
                return ImageOps.exif_transpose(image)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}; give images, for example PNG or JPEG.") from None
    except Exception as error:  # Pillow raises many types
        raise UserError(
            f"{path} cannot be read as an image ({first_line(error)}); give PNG, JPEG or the like."
        ) from error


def fit_picture(picture: Any, split: AnySplit) -> tuple[Tensor, tuple[str, ...]]:
    """Return a picture as an image of a split, uint8, ``(A, H, W)``, and the changes that were made."""
    from PIL import Image, ImageOps

    channels, height, width = split.shape
    changes = []
    if picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))
        changes.append("16 bits to 8")
    mode = {1: "L", 3: "RGB"}[channels]
    if picture.has_transparency_data:
        changes.append("transparency dropped")
    if picture.mode != mode and not (channels == 3 and picture.mode in ("RGBA", "P")):
        changes.append("made grayscale" if channels == 1 else f"from {picture.mode} to {mode}")
    picture = picture.convert(mode)
    if picture.size != (width, height):
        square = picture.width * height == picture.height * width
        part = "" if square else ", the middle of it"
        changes.append(f"resized from {picture.width} x {picture.height}{part}")
        if split.cropped:  # like the set's own images in evaluations
            picture = middle_crop(picture, height)
        else:
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy()), tuple(changes)
