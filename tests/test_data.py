"""Data sets, subsets and orders."""

import gzip
from pathlib import Path

import pytest
import torch

from eman.platform.errors import UserError
from eman.trainers import data


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.train.images.dtype == torch.uint8
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.images.shape[1:] == (1, 16, 16)
    assert torch.bincount(digits.test.labels).min() >= 43


def test_a_stratified_subset_has_equal_shares_and_two_can_be_disjoint() -> None:
    labels = data.load("digits").train.labels
    first, second = data.stratified(labels, 100, 0), data.stratified(labels, 200, 0, skip=100)
    assert torch.bincount(labels[first]).tolist() == [10] * 10
    assert torch.bincount(labels[second]).tolist() == [20] * 10
    assert not set(first.tolist()) & set(second.tolist())
    assert not torch.equal(first, data.stratified(labels, 100, 1))


def test_label_sets_differ_and_are_reproducible() -> None:
    labels = data.load("digits").train.labels
    sets = [data.label_set(labels, 0.1, number) for number in range(3)]
    assert len({data.fingerprint(index) for index in sets}) == 3
    assert torch.equal(sets[1], data.label_set(labels, 0.1, 1))
    assert len(sets[0]) == round(0.1 * len(labels))
    assert torch.equal(data.label_set(labels, 1.0, 0), torch.arange(len(labels)))


def test_a_fraction_that_leaves_a_class_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match="leave some of the 10 classes with none"):
        data.label_set(data.load("digits").train.labels, 0.005, 0)


def test_parts_are_disjoint_and_bounded() -> None:
    digits = data.load("digits")
    train, held_out = data.parts(digits, 1000, 200)
    assert (len(train), len(held_out)) == (1000, 200)
    assert not set(train.ids.tolist()) & set(held_out.ids.tolist())
    assert data.parts(digits, None, 0)[1] is digits.test
    with pytest.raises(UserError, match="add up to more than"):
        data.parts(digits, 1300, 200)


def test_a_stream_shows_every_sample_once_an_epoch() -> None:
    split = data.load("digits").train
    stream = data.Stream(split, 100, seed=0, number=0)
    places, epochs = (torch.cat(part) for part in zip(*(stream.at(step) for step in range(27)), strict=True))
    size = len(split)
    for epoch in (0, 1):
        assert sorted(places[epochs == epoch].tolist()) == list(range(size))
    assert not torch.equal(places[:size], places[size : 2 * size])
    other = data.Stream(split, 100, seed=0, number=0)
    assert torch.equal(other.at(20)[0], stream.at(20)[0])  # no memory of earlier steps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    data._load.cache_clear()
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    return raw


def test_missing_fashion_mnist_names_the_three_ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    with pytest.raises(UserError, match=r"FashionMNIST/raw.*dataset-fashion-mnist.*eman data fetch"):
        data.load("fashion-mnist")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"\0\0\x08\x03" + bytes(100))[:-20], "truncated or corrupt"),
        (b"not gzip at all", "truncated or corrupt"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(100)), "SHA-256 differs"),
    ],
)
def test_damaged_files_are_refused_by_name(folder: Path, content: bytes, message: str) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.gz.*{message}"):
        data.load("fashion-mnist")


def test_a_file_that_is_absent_beside_others_is_named(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"x")
    with pytest.raises(UserError, match="lacks train-images-idx3-ubyte"):
        data.load("fashion-mnist")


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        data.load("digit")
