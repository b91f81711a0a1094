"""Data sets of one's own by name, without torch until one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eman.platform.errors import UserError
from eman.platform.registry import Registry
from eman.trainers.data.known import KNOWN


class Pairs(Protocol):
    """Images with labels, as torchvision's data sets give them: ``dataset[n]`` is ``(image, label)``.

    An image is a Pillow image; an array ``(H, W)`` or ``(H, W, A)``; or a tensor ``(A, H, W)``. Arrays and tensors are
    uint8, or floating-point in [0, 1]. A label is a number from 0.
    """

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> Any:
        """Return an image and its label."""


#: Images, or a function of the data folder that gives them when they are needed.
Source = Pairs | Callable[[Path], Pairs]


@dataclass(frozen=True, eq=False)
class OwnDataset:
    """A registered data set; see :func:`register_dataset`."""

    name: str
    train: Source
    test: Source | None
    classes: tuple[str, ...] | None
    version: int


#: Every registered data set by name.
OWN = Registry[OwnDataset]("dataset")


def register_dataset(
    name: str,
    train: Source,
    test: Source | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    version: int = 1,
) -> None:
    """Add a data set whose images are held in memory, which runs choose by ``dataset=NAME``.

    All images have the same size and number of channels, 1 or 3. They are read once per process, when a run starts.

    Args:
        name: Its name.
        train: Training images, or a function of the data folder that gives them; the function delays the work until the
            images are needed. Images and labels are as torchvision's data sets give them, see :class:`Pairs`.
        test: Test images likewise; ``None`` makes every fifth training image of a class a test image, from the second
            on.
        classes: Names of the classes; by default ``train.classes`` if it has such, else the numbers.
        version: Raise it when the images change; it is part of the keys of runs. Runs record the images' hash, too, and
            refuse others under the same name and version.

    Raises:
        UserError: The name is taken or cannot be a name, the images are no data set, or the version is not positive.
    """
    OWN.check(name)
    if name in KNOWN:
        raise UserError(f"dataset {name!r} is a built-in one; give another name.")
    for split, source in (("train", train), ("test", test)):
        if source is not None and not callable(source) and not hasattr(source, "__getitem__"):
            raise UserError(
                f"{split} of dataset {name!r} is {type(source).__name__}; give a data set with a length and items, or "
                f"a function of the data folder that returns one."
            )
    if version < 1:
        raise UserError(f"version of dataset {name!r} is {version}; give 1 or more.")
    OWN.add(name, OwnDataset(name, train, test, None if classes is None else tuple(classes), version))
