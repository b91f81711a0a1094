"""Load data sets that stay in files or shards, on disk or in an object store: image folders, shards, VOC2007.

Shapes: N images, K classes.
"""

import hashlib
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.data.known import KNOWN
from eman.trainers.data.layout import GRAY_MEAN, GRAY_STD, MEAN, STD, Listing, class_of, has_shards, list_images
from eman.trainers.data.names import is_path
from eman.trainers.data.splits import DataSet
from eman.trainers.data.stored import Files, StoredSplit, in_threads

#: Classes of an image folder whose first images say whether all are gray.
_LOOKED_AT = 20


def _image_folder(name: str, place: Place) -> DataSet:
    listing = list_images(place)
    number = {label: n for n, label in enumerate(listing.classes)}
    gray = name not in KNOWN and _are_gray(place, listing)
    splits = [
        _of_files(
            place,
            [path for path, _ in files],
            torch.tensor([number[class_of(path)] for path, _ in files]),
            channels=1 if gray else 3,
        )
        for files in (listing.train, listing.test)
    ]
    mean, std = (GRAY_MEAN, GRAY_STD) if gray else (MEAN, STD)
    return DataSet(name, splits[0], splits[1], listing.classes, mean, std, listing.hash)


def _are_gray(place: Place, listing: Listing) -> bool:
    """Return whether the first images of the first classes are gray; the images of a folder count as alike."""
    first = {class_of(path): path for path, _ in reversed(listing.train)}
    return all(_header(place, first[label])[1] in ("1", "L", "LA") for label in listing.classes[:_LOOKED_AT])


def _header(place: Place, name: str) -> tuple[tuple[int, int], str]:
    """Return the height and width of an image, and its mode in Pillow; an unreadable one's mode is empty."""
    from PIL import Image

    file = place / name
    try:
        with Image.open(file.local or io.BytesIO(file.read())) as image:
            return (image.height, image.width), image.mode
    except (OSError, UserError, SyntaxError, ValueError, Image.DecompressionBombError):
        return (0, 0), ""


def with_native_size(dataset: DataSet) -> DataSet:
    """Return a data set of files with the size that all of its images have; it reads every image's header.

    Raises:
        UserError: Their sizes differ.
    """
    found: tuple[str, tuple[int, int]] | None = None
    splits = []
    for split in (dataset.train, dataset.test):
        assert isinstance(split, StoredSplit) and isinstance(split.source, Files)
        root, names = split.source.root, split.source.names.to_pylist()
        for name, (size, mode) in zip(names, in_threads(partial(_header, root, name) for name in names), strict=True):
            found = found or ((name, size) if mode else None)
            if mode and found is not None and size != found[1]:
                raise UserError(
                    f"image_size is missing: images in {root} differ in size, for example {found[0]} "
                    f"({_shown(found[1])}) and {name} ({_shown(size)}); give the size to which they are cropped, "
                    f"for example --set image_size=224."
                )
        splits.append(split)
    if found is None:
        raise UserError(f"no image of {dataset.name} can be read.")
    train, test = (replace(split, native=found[1]) for split in splits)
    return replace(dataset, train=train, test=test)


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _of_files(place: Place, names: list[str], labels: Tensor, channels: int = 3) -> StoredSplit:
    import pyarrow as pa

    every, files = np.arange(len(names)), Files(place, pa.array(names, pa.large_string()))
    return StoredSplit(files, every, labels, torch.from_numpy(every), channels)


def _of_shards(name: str, place: Place) -> DataSet:
    content = shards.manifest(place, None if is_path(name) else name)
    splits = {}
    for split, about in content["splits"].items():
        rows, index_N, labels = shards.rows_of(content, place, split)
        if content["several"]:
            labels_N = torch.zeros(len(labels), len(content["classes"]), dtype=torch.int64)
            for row, classes in enumerate(labels):
                labels_N[row, classes] = 1
        else:
            labels_N = torch.tensor(labels)
        native = tuple(about["size"]) if about["size"] else None
        ids_N = torch.from_numpy(index_N)
        splits[split] = StoredSplit(rows, np.arange(len(labels)), labels_N, ids_N, content["channels"], native)
    mean, std = tuple(content["mean"]), tuple(content["std"])
    return DataSet(name, splits["train"], splits["test"], tuple(content["classes"]), mean, std, content["hash"])


def load(name: str, place: Place) -> DataSet:
    """Load a folder of images or shards; raise :class:`UserError` if its layout is neither."""
    if name == "voc2007" and not has_shards(place):
        return _voc2007(name, place)
    return _of_shards(name, place) if has_shards(place) else _image_folder(name, place)


def _voc2007(name: str, place: Place) -> DataSet:
    """Load PASCAL VOC2007's trainval and test with torchvision.

    An image's classes are those of its objects, except objects marked as difficult.
    """
    from xml.etree import ElementTree

    from torchvision.datasets import VOCDetection

    try:
        parts = [VOCDetection(str(place), year="2007", image_set=part) for part in ("trainval", "test")]
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{place} holds no VOC2007 ({first_line(error)}); unpack VOCtrainval_06-Nov-2007.tar and "
            f"VOCtest_06-Nov-2007.tar there, which gives VOCdevkit/VOC2007, or put shards there."
        ) from error
    shown = []
    for part in parts:
        roots = [ElementTree.parse(path).getroot() for path in part.annotations]  # noqa: S314 - the user's own files
        objects = [[o for o in root.iter("object") if o.findtext("difficult") != "1"] for root in roots]
        shown.append([{o.findtext("name", "") for o in shown_objects} for shown_objects in objects])
    classes = sorted({label for part in shown for labels in part for label in labels})
    splits, digest = [], hashlib.sha256()
    for part, labels_of in zip(parts, shown, strict=True):
        names = [str(Path(path).relative_to(str(place))) for path in part.images]
        labels_NK = torch.tensor([[int(label in labels) for label in classes] for labels in labels_of])
        digest.update(repr(list(zip(names, labels_NK.tolist(), strict=True))).encode())
        splits.append(_of_files(place, names, labels_NK))
    return DataSet(name, splits[0], splits[1], tuple(classes), MEAN, STD, digest.hexdigest()[:16])
