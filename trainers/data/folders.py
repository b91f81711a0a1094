"""Load data sets that stay in files or shards, on disk or in an object store: image folders, shards, VOC2007.

Shapes: N images, K classes.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.data.layout import MEAN, STD, class_of, has_shards, list_images
from eman.trainers.data.names import is_path
from eman.trainers.data.splits import DataSet
from eman.trainers.data.stored import Files, StoredSplit


def _image_folder(name: str, place: Place) -> DataSet:
    listing = list_images(place)
    number = {label: n for n, label in enumerate(listing.classes)}
    splits = [
        _of_files(place, [path for path, _ in files], torch.tensor([number[class_of(path)] for path, _ in files]))
        for files in (listing.train, listing.test)
    ]
    return DataSet(name, splits[0], splits[1], listing.classes, MEAN, STD, listing.hash)


def _of_files(place: Place, names: list[str], labels: Tensor) -> StoredSplit:
    import pyarrow as pa

    every = np.arange(len(names))
    return StoredSplit(Files(place, pa.array(names, pa.large_string())), every, labels, torch.from_numpy(every), 3)


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
