"""Layouts of data set folders: class folders of images, or Parquet shards. Reads names and sizes only."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

from eman.platform.errors import UserError
from eman.platform.storage import Place

#: Possible folders of each split; the first that has images is used.
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "2021_train", "2021_train_mini"), ("val", "test", "2021_valid")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

#: File that describes a folder of shards; written last.
MANIFEST = "manifest.json"


#: Mean and standard deviation of ImageNet's channels in [0, 1], used for every image folder; and for gray images, the
#: means of the three.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_MEAN, GRAY_STD = (0.449,), (0.226,)


@dataclass(frozen=True)
class Listing:
    """The files of an image folder, in the order of torchvision's ``ImageFolder``.

    Attributes:
        train, test: Relative path and size in bytes of each image. Without val/ and test/, every fifth image of a
            class is a test image.
        classes: Sorted names of the class folders.
        hash: Hash of all paths and sizes.
    """

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    classes: tuple[str, ...]
    hash: str


def class_of(path: str) -> str:
    """Return the class folder of ``SPLIT/CLASS/.../image.jpg``, or of ``CLASS/.../image.jpg``."""
    first, _, rest = path.partition("/")
    return rest.partition("/")[0] if first in (*TRAIN_FOLDERS, *TEST_FOLDERS) else first


def is_test(place: int) -> bool:
    """Return whether an image is a test image where there is no test split, by its place in its class: every fifth,
    from the second on.
    """
    return place % 5 == 1


def list_images(place: Place) -> Listing:
    """List the images of both splits; raise :class:`UserError` if the folder is missing or has another layout."""
    check_is_folder(place)
    files = place.files()
    expected = (
        f"{place} must hold train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), or CLASS/*.jpg, or shards"
    )
    if not files:
        raise UserError(f"{place} is missing or empty; {expected}.")
    train, test = (_list_split(files, folders, expected) for folders in (TRAIN_FOLDERS, TEST_FOLDERS))
    every = _in_order(_images(files, ""))
    if not train and (test or not every):
        raise UserError(f"{expected}; it has no images in {' or '.join(TRAIN_FOLDERS)}.")
    if train and not test and len(every) > len(train):
        raise UserError(f"{expected}; it has no images in {' or '.join(TEST_FOLDERS)}.")
    train = train or every
    _check_classes(place, train, expected)
    if not test:
        train, test = _divided(place, train)
    classes = sorted({class_of(path) for path, _ in train})
    only_tested = sorted({class_of(path) for path, _ in test} - set(classes))
    if only_tested:
        raise UserError(
            f"{place}: {len(only_tested)} classes have test images and no training images, for example "
            f"{only_tested[0]!r}; both splits need the same {len(classes)} class folders."
        )
    digest = hashlib.sha256(repr(sorted({"train": train, "test": test}.items())).encode()).hexdigest()[:16]
    return Listing(train, test, tuple(classes), digest)


def _list_split(files: list[tuple[str, int]], folders: tuple[str, ...], expected: str) -> list[tuple[str, int]]:
    """Return the images of the first of these folders that has any."""
    images = next((found for folder in folders if (found := _images(files, f"{folder}/"))), [])
    loose = next((path for path, _ in images if path.count("/") < 2), None)
    if loose:
        raise UserError(f"{expected}; {loose} is not in a class folder.")
    return _in_order(images)


def _images(files: list[tuple[str, int]], prefix: str) -> list[tuple[str, int]]:
    """Return the images below a folder; below the whole one only those that are in a folder."""
    return [f for f in files if f[0].startswith(prefix) and "/" in f[0] and f[0].lower().endswith(IMAGE_ENDINGS)]


def _in_order(images: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Sort images as ImageFolder does: by class, then by folder."""
    return sorted(images, key=lambda f: (class_of(f[0]), f[0].rpartition("/")[0], f[0]))


def _check_classes(place: Place, train: list[tuple[str, int]], expected: str) -> None:
    """Raise :class:`UserError` unless there are two classes, and, on disk, each class folder has images."""
    classes = {class_of(path) for path, _ in train}
    first = train[0][0].partition("/")[0]
    parent = place / first if first in TRAIN_FOLDERS else place
    if parent.local is not None:
        folders = {path.name for path in parent.local.iterdir() if path.is_dir() and not path.name.startswith(".")}
        ours = (*TRAIN_FOLDERS, *TEST_FOLDERS, "indexes")
        empty = sorted(folders - classes - (set(ours) if parent is place else set()))
        if empty:
            raise UserError(
                f"{parent} has {len(empty)} class folders without images, for example {empty[0]!r}; delete them, or "
                f"put images there."
            )
    if len(classes) < 2:
        raise UserError(f"{place} has one class, {min(classes)!r}; {expected}, with at least 2 classes.")


def _divided(place: Place, images: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Divide images into training and test images by :func:`is_test`."""
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    counts = Counter[str]()
    for path, size in images:
        label = class_of(path)
        (test if is_test(counts[label]) else train).append((path, size))
        counts[label] += 1
    for label, count in sorted(counts.items()):
        if count < 2:
            raise UserError(
                f"{place} has no val/ or test/ with images, and 1 image of class {label!r}; give at least 2 images of "
                f"each class, of which every fifth becomes a test image, or add val/CLASS/*.jpg."
            )
    return train, test


def has_shards(place: Place) -> bool:
    """Return whether a folder holds shards, complete or not."""
    if (place / MANIFEST).exists():
        return True
    local = place.local
    return local is not None and not (local / "train").is_dir() and any(local.rglob("*.parquet"))


def content_hash(place: Place) -> str:
    """Return the hash of a folder: of its images' names and sizes, or the one in its shards' manifest."""
    if not has_shards(place):
        return list_images(place).hash
    try:
        return str(json.loads((place / MANIFEST).read())["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / MANIFEST} is damaged; delete it and run `eman data shard` again.") from error


def check_layout(place: Place) -> None:
    """Raise :class:`UserError` unless a folder may be a data set; on disk this reads few directory entries."""
    if not looks_like_data(place):
        list_images(place)


def looks_like_data(place: Place) -> bool:
    """Return whether a folder holds shards, or, on disk, an image in a class folder, of training or of all images."""
    local = place.local
    if has_shards(place) or local is None:
        return has_shards(place)
    patterns = [f"{name}/*/**/*" for name in TRAIN_FOLDERS]
    if not any((local / name).is_dir() for name in (*TRAIN_FOLDERS, *TEST_FOLDERS)):
        patterns.append("*/*")
    files = (path for pattern in patterns for path in local.glob(pattern))
    return any(path.suffix.lower() in IMAGE_ENDINGS for path in files)


def check_is_folder(place: Place) -> None:
    """Raise :class:`UserError` if ``place`` is a file."""
    if place.local is not None and place.local.is_file():
        raise UserError(f"{place} is a file; name the folder that holds train/ and val/, or shards.")
