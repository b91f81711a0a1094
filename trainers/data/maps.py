"""Read a registered data set into memory, and check it.

Shapes: N images, A channels, H by W pixels, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.trainers.data.layout import is_test
from eman.trainers.data.memory import assemble
from eman.trainers.data.own import OwnDataset, Source
from eman.trainers.data.splits import DataSet


def load(own: OwnDataset, folder: Path) -> DataSet:
    """Read all images of a data set once.

    Raises:
        UserError: An image or a label is not what it must be; the message says which one and why.
    """
    train_of, train, labels = _read(own.train, folder, f"train of dataset {own.name!r}")
    classes = own.classes or getattr(train_of, "classes", None)
    classes = tuple(map(str, classes if classes is not None else range(int(labels.max()) + 1)))
    title = f"dataset {own.name!r}"
    if len(classes) < 2:
        raise UserError(f"{title} has {len(classes)} class; give images of at least 2 classes.")
    _check_labels(labels, classes, f"train of {title}", every=True)
    if own.test is None:
        test = _chosen(labels, classes, title)
        return assemble(own.name, train[~test], labels[~test], train[test], labels[test], classes)
    _, test_images, test_labels = _read(own.test, folder, f"test of {title}")
    if test_images.shape[1:] != train.shape[1:]:
        raise UserError(f"images of {title} are {_size(train[0])} in train and {_size(test_images[0])} in test.")
    _check_labels(test_labels, classes, f"test of {title}", every=False)
    return assemble(own.name, train, labels, test_images, test_labels, classes)


def _read(source: Source, folder: Path, title: str) -> tuple[Any, Tensor, Tensor]:
    """Return the data set, its images ``(N, A, H, W)``, uint8, and its labels ``(N,)``, int64."""
    ready = hasattr(source, "__getitem__") and not isinstance(source, type)
    pairs: Any = source if ready else source(folder)  # type: ignore[operator]
    try:
        count = len(pairs)
    except TypeError as error:
        raise UserError(f"{title} has no length ({first_line(error)}); give a data set with a length.") from error
    if count == 0:
        raise UserError(f"{title} has no images.")
    images: Tensor | None = None
    labels = torch.empty(count, dtype=torch.int64)
    for number in range(count):
        item = pairs[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UserError(f"item {number} of {title} is {type(item).__name__}; give a pair of image and label.")
        image, label = item
        pixels = _pixels(image, f"image {number} of {title}")
        if images is None:
            images = torch.empty(count, *pixels.shape, dtype=torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise UserError(
                f"image {number} of {title} is {_size(pixels)}, and the first one {_size(images[0])}; give all images "
                f"one size, or write them into class folders and give image_size."
            )
        images[number] = pixels
        labels[number] = _label(label, f"label {number} of {title}")
    assert images is not None
    return pairs, images, labels


def _pixels(image: Any, title: str) -> Tensor:
    """Return an image as uint8, ``(A, H, W)``."""
    if hasattr(image, "convert"):  # of Pillow
        array = np.array(image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB"))
        pixels = torch.from_numpy(array)
    elif isinstance(image, Tensor):
        pixels = image
    elif isinstance(image, np.ndarray):
        pixels = torch.from_numpy(np.ascontiguousarray(image))  # PyTorch has no negative strides
    else:
        raise UserError(f"{title} is {type(image).__name__}; give a Pillow image, an array or a tensor.")
    if pixels.dim() == 2:
        pixels = pixels[None]
    elif pixels.dim() == 3 and not isinstance(image, Tensor):
        pixels = pixels.permute(2, 0, 1)
    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise UserError(
            f"{title} has shape {tuple(image.shape)}; give arrays (H, W) or (H, W, A), or tensors (A, H, W), with A = "
            f"1 or 3."
        )
    if pixels.is_floating_point():
        if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(
                f"{title} has values from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}; give bytes, or "
                f"numbers in [0, 1], without normalization, which a run applies itself."
            )
        return (pixels * 255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise UserError(f"{title} has values of type {pixels.dtype}; give bytes (uint8), or numbers in [0, 1].")
    return pixels


def _size(pixels: Tensor) -> str:
    return " x ".join(map(str, pixels.shape))


def _label(label: Any, title: str) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(label, str | float):
        raise UserError(f"{title} is {label!r}; give the number of its class, from 0.")
    return number


def _check_labels(labels: Tensor, classes: Sequence[str], title: str, *, every: bool) -> None:
    """Raise :class:`UserError` for a label without a class, or, with ``every``, a class without images."""
    if labels.max() >= len(classes):
        first = int((labels >= len(classes)).nonzero()[0])
        raise UserError(
            f"label {first} of {title} is {int(labels[first])}, and there are {len(classes)} classes; labels run from "
            f"0 to {len(classes) - 1}."
        )
    counts = torch.bincount(labels, minlength=len(classes))
    if every and (counts == 0).any():
        empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
        raise UserError(
            f"{title} has no images of {len(empty)} of its {len(classes)} classes, for example {empty[0]!r}; leave "
            f"such classes out."
        )


def _chosen(labels: Tensor, classes: Sequence[str], title: str) -> Tensor:
    """Return which images are test images, ``(N,)``, where no test split is given."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for number, name in enumerate(classes):
        places = (labels == number).nonzero()[:, 0]
        if len(places) < 2:
            raise UserError(
                f"{title} has no test split, and 1 image of class {name!r}; give at least 2 images of each class, of "
                f"which every fifth becomes a test image, or a test split."
            )
        test[places[[is_test(place) for place in range(len(places))]]] = True
    return test
