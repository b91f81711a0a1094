"""Data sets of one's own: folders of images, and what is registered."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eman.cli import main
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.data import catalog
from eman.trainers.data.own import OWN, register_dataset
from eman.trainers.data.shard_writer import shard
from eman.trainers.data.splits import DataSet
from eman.trainers.loop import fit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder."""
    monkeypatch.setenv("EMAN_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    before = dict(OWN)
    yield tmp_path / "data"
    OWN.clear()
    OWN.update(before)
    catalog.forget()


def load(name: str, size: int | None = None) -> DataSet:
    catalog.forget()
    return catalog.load(name, Workspace.from_environment(), size)


def save(path: Path, size: tuple[int, int] = (16, 16), mode: str = "RGB", value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write(root: Path, *places: str, count: int = 6, **options: Any) -> None:
    for number, place in enumerate(places):
        for image in range(count):
            save(root / place / f"{image}.png", value=100 * number + image, **options)


# Folders


def test_every_fifth_image_of_a_class_is_a_test_image_where_no_split_is_given(folder: Path) -> None:
    write(folder / "plain", "cat", "dog", count=9)
    write(folder / "trained", "train/cat", "train/dog", count=9)
    plain, trained = load("plain", 16), load("trained", 16)
    for dataset in (plain, trained):
        assert dataset.classes == ("cat", "dog")
        assert (len(dataset.train), len(dataset.test)) == (14, 4)
        assert torch.bincount(dataset.test.labels).tolist() == [2, 2]
    assert torch.equal(plain.train.read(torch.arange(14)), trained.train.read(torch.arange(14)))
    read = [image for split in (plain.train, plain.test) for image in split.read(torch.arange(len(split)))]
    assert len({image.numpy().tobytes() for image in read}) == 18


def test_sizes_and_channels_are_found_out(folder: Path) -> None:
    write(folder / "gray", "train/a", "train/b", "val/a", "val/b", mode="L", size=(12, 20))
    dataset = load("gray")
    assert dataset.train.shape == dataset.test.shape == (1, 12, 20)
    assert len(dataset.mean) == 1
    assert dataset.train.read(torch.arange(3)).shape == (3, 1, 12, 20)
    write(folder / "coloured", "a", "b")
    assert load("coloured").train.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: save(root / "train/a/9.png", (16, 18)),
            r"differ in size, .*0.png \(16 x 16\) and .*9.png",
        ),
        (lambda root: (root / "train" / "c").mkdir(), r"train has 1 class folders without images, for example 'c'"),
        (lambda root: (root / "train" / "b").rename(root / "b"), r"has no images in val or test"),
        (lambda root: (root / "train").rename(root / "val"), r"has no images in train"),
        (
            lambda root: save(root / "train/c/0.png"),
            r"has no val/ or test/ with images, and 1 image of class 'c'",
        ),
        (lambda root: (root / "train" / "b").rename(root.parent / "b"), r"has one class, 'a'; .* at least 2 classes"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    write(folder / "mine", "train/a", "train/b")
    assert load("mine").train.shape == (3, 16, 16)
    change(folder / "mine")
    with pytest.raises(UserError, match=message):
        load("mine")


def test_a_folder_without_splits_trains_by_its_path(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "pets", "cat", "dog", count=40)
    fields = {"dataset": str(tmp_path / "pets"), "epochs": 1, "images": 32, "held_out": 8}
    spec = SMOKE.run("moco", "eman", 0, {**fields, "batch": 32, "queue": 64})
    assert fit(spec, Workspace.from_environment()).metrics["train/loss"] > 0


# What is registered


class Pairs:
    """Images of two classes, as torchvision's data sets give them."""

    def __init__(self, make: Callable[[torch.Tensor], Any] = lambda x: x, labels: Any = (0, 1, 0, 1, 0, 1)) -> None:
        self.pixels = torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8)
        self.make, self.labels = make, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self.make(self.pixels[number]), self.labels[number]


class Uneven(Pairs):
    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self.pixels[number][:, : 8 - number // 4], self.labels[number]


def picture(x: torch.Tensor) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x / 255, picture, lambda x: x.permute(1, 2, 0).numpy()])
def test_images_come_as_tensors_arrays_or_pictures(folder: Path, make: Callable[[torch.Tensor], Any]) -> None:
    pairs = Pairs(make)
    register_dataset("mine", pairs, pairs, classes=("no", "yes"))
    dataset = load("mine")
    assert dataset.classes == ("no", "yes")
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert torch.equal(dataset.train.read(torch.arange(6)), pairs.pixels)


def test_channels_are_those_of_the_images(folder: Path) -> None:
    register_dataset("mine", Pairs(lambda x: picture(x).convert("L")))
    register_dataset("arrays", Pairs(lambda x: np.rot90(x[0].numpy())))
    register_dataset("palette", Pairs(lambda x: picture(x).convert("P")))
    assert load("mine").train.shape == load("arrays").train.shape == (1, 8, 8)
    assert load("palette").train.shape == (3, 8, 8)


def test_without_a_test_split_every_fifth_image_is_a_test_image(folder: Path) -> None:
    pairs = Pairs()
    register_dataset("mine", pairs)
    dataset = load("mine")
    assert torch.equal(dataset.test.read(torch.arange(2)), pairs.pixels[[2, 3]])
    assert len(dataset.train) == 4


def test_the_images_are_read_once_and_only_when_they_are_needed(folder: Path) -> None:
    calls = []

    def make(data: Path) -> Pairs:
        calls.append(data)
        return Pairs()

    register_dataset("mine", make)
    spec = SMOKE.run("moco", "eman", 0, {"dataset": "mine"})
    assert not calls
    for _ in range(2):
        catalog.load(spec.data.dataset, Workspace.from_environment())
    assert calls == [folder]


class Rows:
    """A split with the interface of Hugging Face's: a row is a dictionary."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return dict(zip(("image", "label"), self.pairs[number], strict=True))


class OfRows:
    """The lines that the page gives for such a split."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        row = self.rows[number]
        return row["image"], row["label"]


def test_a_split_of_dictionaries_needs_a_few_lines(folder: Path) -> None:
    rows = Rows(Pairs(picture))
    register_dataset("rows", OfRows(rows))
    assert load("rows").train.shape == (3, 8, 8)
    register_dataset("raw", rows)
    with pytest.raises(UserError, match=r"item 0 of train of dataset 'raw' is dict; give a pair"):
        load("raw")


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (Pairs(labels=(0, 0, 0)), {}, r"dataset 'mine' has 1 class; give images of at least 2"),
        (Pairs(labels=(0, 2, 0, 2)), {}, r"has no images of 1 of its 3 classes, for example '1'"),
        (Pairs(labels=(0, 1, 2, 0, 1)), {"classes": ("a", "b")}, r"label 2 of train .* is 2, and there are 2 classes"),
        (Pairs(labels=(0, 1, -1)), {}, r"label 2 of train of dataset 'mine' is -1; give the number"),
        (Pairs(labels=(0, 1, "cat")), {}, r"label 2 of train of dataset 'mine' is 'cat'"),
        (Pairs(labels=()), {}, r"train of dataset 'mine' has no images"),
        (Pairs(labels=(0, 0, 1)), {}, r"has no test split, and 1 image of class '1'"),
        (Uneven(), {}, r"image 4 of train of dataset 'mine' is 3 x 7 x 8, and the first one 3 x 8 x 8"),
        (Pairs(lambda x: x[:2]), {}, r"image 0 of train of dataset 'mine' has shape \(2, 8, 8\)"),
        (Pairs(lambda x: x / 100 - 1), {}, r"image 0 .* has values from .*without normalization"),
        (Pairs(lambda x: x.long()), {}, r"image 0 .* has values of type torch.int64"),
        (Pairs(lambda _x: "a.png"), {}, r"image 0 .* is str; give a Pillow image"),
        (Pairs(), {"test": Pairs(lambda x: x[:1])}, r"are 3 x 8 x 8 in train and 1 x 8 x 8 in test"),
        (lambda _folder: iter(()), {}, r"has no length"),
    ],
)
def test_what_is_wrong_with_a_registered_set_is_said(
    folder: Path, train: Any, options: dict[str, Any], message: str
) -> None:
    register_dataset("mine", train, **options)
    with pytest.raises(UserError, match=message):
        load("mine")


@pytest.mark.parametrize(
    ("name", "train", "version", "message"),
    [
        ("digits", Pairs(), 1, "is a built-in one"),
        ("a/b", Pairs(), 1, "give a name of up to 64"),
        ("mine", 3, 1, "train of dataset 'mine' is int"),
        ("mine", Pairs(), 0, "give 1 or more"),
    ],
)
def test_registrations_are_checked(folder: Path, name: str, train: Any, version: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_dataset(name, train, version=version)
    register_dataset("mine", Pairs())
    with pytest.raises(UserError, match="already registered"):
        register_dataset("mine", Pairs())


def test_a_registered_set_trains_is_listed_and_can_be_sharded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_dataset("mine", Pairs(labels=(0, 1) * 40))
    write(folder / "pets", "cat", "dog")
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mine           64 + 16 images of 3 x 8 x 8, 2 classes, in memory" in lines
    assert any(line.startswith("pets           10 + 2 images of 3 x any size, 2 classes, in files") for line in lines)
    fields = {"dataset": "mine", "epochs": 1, "images": 32, "held_out": 8, "batch": 32, "queue": 64}
    assert fit(SMOKE.run("moco", "eman", 0, fields), Workspace.from_environment()).metrics["train/loss"] > 0
    shard("shards-of-mine", Workspace.from_environment(), "mine", None, lambda _: None)
    assert torch.equal(load("shards-of-mine").train.labels.sort()[0], load("mine").train.labels.sort()[0])


def test_a_version_is_part_of_the_key(folder: Path) -> None:
    def key(version: int) -> str:
        OWN.pop("mine", None)
        register_dataset("mine", Pairs(), version=version)
        return SMOKE.run("moco", "eman", 0, {"dataset": "mine"}).key

    assert len({key(1), key(2), key(3)}) == 3
