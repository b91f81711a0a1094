"""Data sets that stay where they are, on disk or in an object store: image folders, shards, VOC2007.

Shapes: N images, K classes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line
from eman.platform.storage import Place
from eman.trainers.data import shards
from eman.trainers.data.splits import DataSet
from eman.trainers.data.stored import Files, Rows, StoredSplit

#: ImageNet's usual pixel statistics, which serve every image folder.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Folders of an image folder's two splits; the first that is there counts.
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "2021_train", "2021_train_mini"), ("val", "test", "2021_valid")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def _listing(place: Place) -> dict[str, list[tuple[str, int]]]:
    """Names and sizes of the images of both splits, in the order of torchvision's ImageFolder.

    Raises:
        UserError: The folder is not laid out so.
    """
    found = place.files()
    layout = f"{place} must hold train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), or shards"
    if not found:
        raise UserError(f"{place} is missing or empty; {layout}.")
    splits: dict[str, list[tuple[str, int]]] = {}
    for split, names in (("train", TRAIN_FOLDERS), ("test", TEST_FOLDERS)):
        for name in names:
            images = [f for f in found if f[0].startswith(f"{name}/") and f[0].lower().endswith(IMAGE_ENDINGS)]
            if images:
                break
        else:
            raise UserError(f"{layout}; it has no images in {' or '.join(names)}.")
        loose = next((path for path, _ in images if path.count("/") < 2), None)
        if loose:
            raise UserError(f"{layout}; {loose} lies in no class's folder.")
        # Class by class, and in a class folder by folder, as ImageFolder walks.
        splits[split] = sorted(images, key=lambda f: (f[0].split("/")[1], f[0].rpartition("/")[0], f[0]))
    return splits


def _image_folder(name: str, place: Place) -> DataSet:
    listing = _listing(place)
    classes = sorted({path.split("/")[1] for path, _ in listing["train"]})
    strange = sorted({path.split("/")[1] for path, _ in listing["test"]} - set(classes))
    if strange:
        raise UserError(
            f"{place}: {len(strange)} classes have test images and no training images, for example {strange[0]!r}; "
            f"both splits need the same {len(classes)} class folders."
        )
    number = {label: n for n, label in enumerate(classes)}
    splits = {}
    for split, files in listing.items():
        labels = torch.tensor([number[path.split("/")[1]] for path, _ in files])
        splits[split] = _of_files(place, [path for path, _ in files], labels)
    digest = hashlib.sha256(repr(sorted(listing.items())).encode()).hexdigest()[:16]
    return DataSet(name, splits["train"], splits["test"], tuple(classes), MEAN, STD, digest)


def _of_files(place: Place, names: list[str], labels: Tensor) -> StoredSplit:
    import pyarrow as pa

    every = np.arange(len(names))
    return StoredSplit(Files(place, pa.array(names, pa.large_string())), every, labels, torch.from_numpy(every), 3)


def _of_shards(name: str, place: Place) -> DataSet:
    content = shards.manifest(place, name)
    splits = {}
    for split, about in content["splits"].items():
        rows = shards.index_of(content, place, split)
        labels, order = rows.labels, np.argsort(rows.index_N)  # the set's own order: subsets are those of the folder
        ids, native = torch.from_numpy(rows.index_N[order]), about["size"]
        if content["several"]:
            found = torch.zeros(len(labels), len(content["classes"]), dtype=torch.int64)
            for row, place_ in enumerate(order):
                found[row, labels[place_]] = 1
        else:
            found = torch.tensor(labels)[torch.from_numpy(order)]
        files = tuple(record["file"] for record in about["shards"])
        source = Rows(place, files, rows.where_N3[order], rows.group_N[order])
        splits[split] = StoredSplit(
            source, np.arange(len(order)), found, ids, content["channels"], tuple(native) if native else None
        )
    mean, std = tuple(content["mean"]), tuple(content["std"])
    return DataSet(name, splits["train"], splits["test"], tuple(content["classes"]), mean, std, content["hash"])


def stored(name: str, place: Place) -> DataSet:
    """An image folder, or shards."""
    sharded = (place / shards.MANIFEST).exists() or (
        place.local is not None and not (place.local / "train").is_dir() and any(place.local.rglob("*.parquet"))
    )
    return _of_shards(name, place) if sharded else _image_folder(name, place)


def _voc2007(name: str, place: Place) -> DataSet:
    """PASCAL VOC2007 by torchvision: trainval and test; an image shows the classes of its objects that are not marked
    as difficult.
    """
    from xml.etree import ElementTree

    from torchvision.datasets import VOCDetection

    if (place / shards.MANIFEST).exists():
        return _of_shards(name, place)
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
        shown.append([{o.findtext("name", "") for o in found} for found in objects])
    classes = sorted({label for part in shown for labels in part for label in labels})
    splits, digest = [], hashlib.sha256()
    for part, labels_of in zip(parts, shown, strict=True):
        names = [str(Path(path).relative_to(str(place))) for path in part.images]
        labels_NK = torch.tensor([[int(label in labels) for label in classes] for labels in labels_of])
        digest.update(repr(list(zip(names, labels_NK.tolist(), strict=True))).encode())
        splits.append(_of_files(place, names, labels_NK))
    return DataSet(name, splits[0], splits[1], tuple(classes), MEAN, STD, digest.hexdigest()[:16])


#: Sets that stay where they are: folders, or shards.
STORED: dict[str, Callable[[str, Place], DataSet]] = {"imagenet": stored, "inaturalist": stored, "voc2007": _voc2007}
