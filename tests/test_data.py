"""Data sets, subsets and orders."""

import gzip
import hashlib
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision import datasets

from eman.cli import main
from eman.evaluation.compute import labelled
from eman.evaluation.features import Features
from eman.evaluation.protocols.groups import eval_title
from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.evaluation.protocols.spec import EvalSpec, check, make_eval
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.batches import Batches
from eman.trainers.data import catalog as data
from eman.trainers.data import known, label_sets, memory, names
from eman.trainers.data.order import Stream
from eman.trainers.training import Training

#: Images of each file of a small STL-10.
STL10 = {"train": 40, "test": 20, "unlabeled": 60}


def test_digits() -> None:
    digits = data.load("digits", Workspace.from_environment())
    assert digits.train.images.dtype == torch.uint8
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.images.shape[1:] == (1, 16, 16)
    assert torch.bincount(digits.test.labels).min() >= 43


#: Class sizes of ImageNet's kind.
UNEQUAL = torch.repeat_interleave(torch.arange(5), torch.tensor([732, 1000, 1200, 1300, 1300]))


@pytest.mark.parametrize("fraction", [0.1, 0.01, 0.123, 0.5, 0.987])
def test_a_label_set_is_stratified_as_scikit_learns(fraction: float) -> None:
    chosen = label_sets.label_set(UNEQUAL, fraction, 0)
    counts = torch.bincount(UNEQUAL[chosen]).tolist()
    if fraction == 0.1:
        assert counts == [73, 100, 120, 130, 130]
    theirs, _ = train_test_split(UNEQUAL.numpy(), train_size=len(chosen), stratify=UNEQUAL.numpy(), random_state=0)
    assert counts == np.bincount(theirs).tolist()
    assert len(chosen) == round(fraction * len(UNEQUAL)) == len(set(chosen.tolist()))
    assert not torch.equal(chosen, label_sets.label_set(UNEQUAL, fraction, 1))


def test_a_label_set_may_be_balanced_by_name() -> None:
    balanced = label_sets.label_set(UNEQUAL, 0.1, 0, "balanced")
    assert torch.bincount(UNEQUAL[balanced]).tolist() == [111, 111, 111, 110, 110]
    equal = torch.arange(1000) % 10
    assert torch.equal(*(label_sets.label_set(equal, 0.1, 3, sampling) for sampling in ("balanced", "proportional")))


def test_runs_and_evaluations_draw_label_sets_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load("digits", Workspace.from_environment())
    few = (digits.train.labels != 0).logical_or(torch.arange(len(digits.train)) % 3 == 0).nonzero()[:, 0]
    unequal = replace(digits, name="unequal", train=digits.train.take(few))
    monkeypatch.setitem(memory.LOADERS, "unequal", lambda _folder, _download: unequal)
    for names_ in (known.IN_MEMORY, known.KNOWN):
        monkeypatch.setitem(names_, "unequal", known.Sizes(len(few), 454, 10, pixels=16))
    labels, several = unequal.train.labels, []
    for sampling, least in (("proportional", 4), ("balanced", 12)):
        fields = {"dataset": "unequal", "held_out": 0, "label_sampling": sampling}
        training = Training.fresh(SMOKE.run("fixmatch", "eman", 2, fields), Workspace.from_environment())
        evaluated = Trained("x", Workspace.from_environment())
        evaluated.__dict__["features"] = Features(torch.empty(0), labels, *4 * (torch.empty(0),))
        for name in ("linear", "finetune"):
            section = make_eval(name, "x", label_sampling=sampling).protocol
            assert isinstance(section, LabelledSpec)
            sets = labelled.label_sets(evaluated, section)
            assert torch.equal(sets[2], training.labelled)
        several.append(sets[2])
        assert abs(int((labels[sets[2]] == 0).sum()) - least) <= 1
    assert not torch.equal(*several)


def test_a_class_without_labels_is_refused_by_name() -> None:
    labels = torch.tensor([0] * 500 + [1] * 497 + [2] * 3)
    with pytest.raises(UserError, match=r"leave class 2 with none of its 3; .*label_sampling=balanced"):
        label_sets.label_set(labels, 0.1, 0)
    assert torch.bincount(labels[label_sets.label_set(labels, 0.1, 0, "balanced")]).tolist()[2] == 3
    sizes = EvalSizes("unequal", 1000, 3, (500, 497, 3))
    for name in ("linear", "finetune"):
        with pytest.raises(UserError, match="leave class 2 with none of its 3"):
            check(make_eval(name, "x"), sizes)
        for fields in ({"label_sampling": "balanced"}, {"label_fraction": 1.0}, {"label_index": "few"}):
            check(make_eval(name, "x", **fields), sizes)


def test_a_balanced_subset_has_equal_shares_and_two_can_be_disjoint() -> None:
    labels = data.load("digits", Workspace.from_environment()).train.labels
    first, second = label_sets.balanced(labels, 100, 0), label_sets.balanced(labels, 200, 0, skip=100)
    assert torch.bincount(labels[first]).tolist() == [10] * 10
    assert torch.bincount(labels[second]).tolist() == [20] * 10
    assert not set(first.tolist()) & set(second.tolist())
    assert not torch.equal(first, label_sets.balanced(labels, 100, 1))


def test_labels_are_given_by_number_and_their_images_may_be_unlabelled_ones_too() -> None:
    def batches(**fields: Any) -> Batches:
        spec = SMOKE.run("fixmatch", "eman", 0, fields)
        return Batches(spec, Workspace.from_environment(), torch.device("cpu"), torch.float32)

    plain, twice = batches(label_count=40), batches(label_count=40, reuse_labelled=True)
    assert plain.labelled is not None
    assert len(plain.labelled) == 40
    assert len(plain.train.labels[plain.labelled].unique()) == 10
    by_fraction = batches(label_fraction=40 / len(plain.train)).labelled
    assert by_fraction is not None
    assert torch.equal(plain.labelled, by_fraction)
    everything = len(plain.train)
    assert [len(x.streams["unlabelled"].split) for x in (plain, twice)] == [everything - 40, everything]
    assert [len(x.streams["labelled"].split) for x in (plain, twice)] == [40, 40]
    assert plain.spec.replace(label_fraction=0.5) == plain.spec


def test_label_sets_differ_and_are_reproducible() -> None:
    labels = data.load("digits", Workspace.from_environment()).train.labels
    sets = [label_sets.label_set(labels, 0.1, number) for number in range(3)]
    assert len({label_sets.fingerprint(index) for index in sets}) == 3
    assert torch.equal(sets[1], label_sets.label_set(labels, 0.1, 1))
    assert len(sets[0]) == round(0.1 * len(labels))
    assert torch.equal(label_sets.label_set(labels, 1.0, 0), torch.arange(len(labels)))


def test_a_fraction_that_leaves_a_class_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match="leave some of the 10 classes with none"):
        label_sets.label_set(data.load("digits", Workspace.from_environment()).train.labels, 0.005, 0)


def test_parts_are_disjoint_and_bounded() -> None:
    digits = data.load("digits", Workspace.from_environment())
    train, held_out = label_sets.parts(digits, 1000, 200)
    assert (len(train), len(held_out)) == (1000, 200)
    assert not set(train.ids.tolist()) & set(held_out.ids.tolist())
    assert label_sets.parts(digits, None, 0)[1] is digits.test
    with pytest.raises(UserError, match="exceed the 1,343"):
        label_sets.parts(digits, 1300, 200)


def test_a_stream_shows_every_sample_once_an_epoch() -> None:
    split = data.load("digits", Workspace.from_environment()).train
    stream = Stream(split, 100, seed=0, number=0)
    places, epochs = (torch.cat(part) for part in zip(*(stream.at(step) for step in range(27)), strict=True))
    size = len(split)
    for epoch in (0, 1):
        assert sorted(places[epochs == epoch].tolist()) == list(range(size))
    assert not torch.equal(places[:size], places[size : 2 * size])
    other = Stream(split, 100, seed=0, number=0)
    assert torch.equal(other.at(20)[0], stream.at(20)[0])  # no memory of earlier steps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    monkeypatch.setattr(memory, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    data.forget()
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    return raw


def test_missing_fashion_mnist_names_the_three_ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    with pytest.raises(UserError, match=r"FashionMNIST/raw.*dataset-fashion-mnist.*eman data fetch"):
        data.load("fashion-mnist", Workspace.from_environment())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"\0\0\x08\x03" + bytes(100))[:-20], "truncated or corrupt"),
        (b"not gzip at all", "truncated or corrupt"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(100)), "SHA-256 differs"),
    ],
    ids=["cut short", "other bytes", "another file"],
)
def test_damaged_files_are_refused_by_name(folder: Path, content: bytes, message: str) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.gz.*{message}"):
        data.load("fashion-mnist", Workspace.from_environment())


def test_a_file_that_is_absent_beside_others_is_named(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"x")
    with pytest.raises(UserError, match="lacks train-images-idx3-ubyte"):
        data.load("fashion-mnist", Workspace.from_environment())


def cifar(folder: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray[Any, Any]]:
    """Files in CIFAR's own layout, with random images, and torchvision told their MD5s."""
    place = folder / kind.base_folder
    place.mkdir()
    random, labels, images = np.random.default_rng(0), {}, {}
    for attribute in ("train_list", "test_list"):
        listed = []
        for name, _ in getattr(kind, attribute):
            images[name] = random.integers(0, 256, (40, 3 * 32 * 32), dtype=np.uint8)
            labels[name] = [int(n) % 10 for n in range(40)]
            raw = pickle.dumps({"data": images[name], "labels" if "batch" in name else "fine_labels": labels[name]})
            (place / name).write_bytes(raw)
            listed.append([name, hashlib.md5(raw, usedforsecurity=False).hexdigest()])
        monkeypatch.setattr(kind, attribute, listed)
    meta = pickle.dumps({kind.meta["key"]: [f"class {n}" for n in range(10)]})
    (place / kind.meta["filename"]).write_bytes(meta)
    monkeypatch.setitem(kind.meta, "md5", hashlib.md5(meta, usedforsecurity=False).hexdigest())
    return images


@pytest.mark.parametrize(("name", "kind"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifar_is_read_through_torchvisions_checks(
    name: str, kind: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=f"{name} is not on this machine, and was not asked for.*unpack {kind.filename}"
    ):
        data.load(name, Workspace.from_environment(), download=False)
    images = cifar(tmp_path, kind, monkeypatch)
    files = [file for file, _ in kind.train_list]
    found = data.load(name, Workspace.from_environment())
    assert found.train.images.shape == (40 * len(files), 3, 32, 32)
    assert len(found.test) == 40
    assert found.classes[3] == "class 3"
    expected = images[files[0]][1].reshape(3, 32, 32)
    assert np.array_equal(found.train.images[1].numpy(), expected)
    assert found.train.labels[:11].tolist() == [*range(10), 0]
    assert len(found.mean) == 3
    data.forget()
    damaged = tmp_path / kind.base_folder / files[0]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(UserError, match=f"{files[0]} is missing, truncated or corrupt"):
        data.load(name, Workspace.from_environment())


def test_stl10_has_images_without_labels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"stl10 is missing.*stl10_binary.*was not asked for"):
        data.load("stl10", Workspace.from_environment(), download=False)
    kind, random = datasets.STL10, np.random.default_rng(0)
    place = tmp_path / kind.base_folder
    place.mkdir()
    raw = {name: random.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8) for name, count in STL10.items()}
    files = {f"{name}_X.bin": images.transpose(0, 1, 3, 2).tobytes() for name, images in raw.items()}
    for name in ("train", "test"):
        files[f"{name}_y.bin"] = bytes(1 + n % 10 for n in range(STL10[name]))
    files |= {"class_names.txt": "\n".join(f"class {n}" for n in range(10)).encode()}
    for name, content in files.items():
        (place / name).write_bytes(content)
    sums = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[name, sums[name]] for name, _ in getattr(kind, attribute)])
    found = data.load("stl10", Workspace.from_environment())
    assert found.unlabelled is not None
    assert (len(found.train), len(found.unlabelled), len(found.test)) == (40, 60, 20)
    assert np.array_equal(found.train.read(torch.tensor([3]))[0].numpy(), raw["train"][3])
    assert np.array_equal(found.unlabelled.images[5].numpy(), raw["unlabeled"][5])
    assert found.train.labels[:11].tolist() == [*range(10), 0]
    fields = {"dataset": "stl10", "held_out": 10, "batch": 16, "backbone": "small", "statistics_passes": 0}
    moco = Training.fresh(SMOKE.run("moco", "eman", 0, {**fields, "queue": 32}), Workspace.from_environment())
    assert len(moco.batches.streams["unlabelled"].split) == 30 + 60
    fixmatch = Training.fresh(
        SMOKE.run("fixmatch", "eman", 0, {**fields, "label_fraction": 1.0, "labelled_batch": 8}),
        Workspace.from_environment(),
    )
    assert len(fixmatch.batches.streams["labelled"].split) == 30
    assert len(fixmatch.batches.streams["unlabelled"].split) == 60
    assert len(set(moco.batches.streams["unlabelled"].split.ids.tolist())) == 90
    moco.train_step()
    fixmatch.train_step()


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        data.load("digit", Workspace.from_environment())


def write_images(root: Path, side: int = 8) -> Path:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            place = root / split / label
            place.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.full((side, side, 3), 40 * number, np.uint8)).save(place / f"{number}.png")
    return root


def test_the_catalog_knows_the_sizes_of_sets_in_memory() -> None:
    for name in ("digits", "synthetic", "synthetic-gray"):
        dataset, sizes = data.load(name, Workspace.from_environment()), known.KNOWN[name]
        assert (sizes.train, sizes.test, sizes.classes) == (len(dataset.train), len(dataset.test), len(dataset.classes))
        assert sizes.channels == dataset.train.shape[0]
        assert sizes.pixels in (None, dataset.train.shape[1])


def test_checking_a_name_imports_no_torch(tmp_path: Path) -> None:
    write_images(tmp_path / "pets")
    code = (
        "import sys; from eman.platform.workspace import Workspace; from eman.trainers.data import catalog, names\n"
        f"catalog.check_dataset('pets', Workspace(data={str(tmp_path)!r})); names.resolve({str(tmp_path / 'pets')!r})\n"
        "assert not {'torch', 'torchvision', 'ray', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_names_a_set_by_its_content(tmp_path: Path) -> None:
    here, elsewhere = write_images(tmp_path / "pets"), write_images(tmp_path / "away" / "pets")
    name, moved = names.resolve(str(here)), names.resolve(str(elsewhere))
    assert name != moved
    assert names.identity(name) == names.identity(moved)
    assert names.resolve(name) == name
    assert names.title(name) == "pets"
    workspace = Workspace(data=str(tmp_path / "empty"))
    dataset = data.load(name, workspace, 8)
    assert name.endswith(dataset.hash)
    assert SMOKE.run("moco", "eman", 0, {"dataset": str(here), "image_size": 8, "held_out": 0}).data.dataset == name
    (here / "train" / "cat" / "more.png").write_bytes((here / "train" / "cat" / "0.png").read_bytes())
    assert names.identity(names.resolve(str(here))) != names.identity(name)
    data.forget()
    with pytest.raises(UserError, match="holds other images than the run asks for"):
        data.load(name, workspace, 8)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", "..", "", ".hidden"])
def test_an_index_file_stays_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="give the name of a file in the data set's folder indexes/"):
        names.check_index_file(name)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"images": 1300, "held_out": 200}, "images=1300 and held_out=200 exceed the 1,343"),
        ({"held_out": 1343}, "held_out=1343"),
        ({"images": 5}, "images is 5, and digits has 10 classes"),
        ({"held_out": 5}, "held_out is 5, and digits has 10 classes"),
        ({"label_fraction": 0.001}, "some of the 10 classes of digits get none"),
        ({"label_count": 9}, "label_count is 9, and digits has 10 classes"),
        ({"held_out": 200, "label_count": 1200}, "1,143 training images to label; give a number from 10 to 1143"),
        ({"image_size": 224}, "held in memory at 16 pixels"),
    ],
)
def test_what_a_set_does_not_hold_is_refused_beforehand(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data.check_fits("digits", **asked)


def test_an_evaluation_on_a_path_is_named_by_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = write_images(tmp_path / "a" / "pets"), tmp_path / "b" / "pets"
    shutil.copytree(here, there)
    monkeypatch.chdir(tmp_path)
    places = [str(here), f"{here}/", "./a/pets", str(there)]
    first, *others = [make_eval("knn", "abc", dataset=place) for place in places]
    assert {spec.key for spec in others} == {first.key}
    assert first.dataset == f"{here}@{names.content_hash(Place(str(here)))}"
    assert eval_title(first).endswith("on pets")
    assert EvalSpec.from_flat(first.flat()) == first
    next(there.glob("train/*/*")).unlink()
    assert make_eval("knn", "abc", dataset=str(there)).key != first.key
    with pytest.raises(UserError, match=r"does not exist|is missing"):
        make_eval("knn", "abc", dataset="./nowhere")


def test_own_folders_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    write_images(tmp_path / "pets")
    (tmp_path / "notes").mkdir()
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"^pets +6 \+ 6 images of 3 x any size, 2 classes, in files$", listed, re.M)
    assert "notes" not in listed
    assert main(["data", "fetch", "pets"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shard", "new", "--source", "MISSING"], "missing or empty"),
        (["shard", "new", "--source", "FILE"], "is a file"),
        (["shard", "new", "--source", "PETS", "--out", "FILE"], "cannot be written"),
        (["shard", "new", "--source", "PETS", "--out", "FILE/below"], "cannot be written"),
        (["shard", "new", "--source", "PETS", "--out", ""], "--out is empty"),
        (["shard", "new", "--source", "PETS", "--rows", "0"], "rows"),
        (["shard", "../new", "--source", "PETS"], "give a plain name"),
        (["shard", "pets"], "among the images"),
        (["verify", "pest"], "did you mean 'pets'"),
        (["verify", "pets"], "holds no shards"),
        (["info", "MISSING"], "does not exist"),
        (["info", "FILE"], "is a file"),
        (["fetch", "pest"], "did you mean 'pets'"),
        (["fetch", "FILE"], "is a file"),
        (["fetch", ""], "unknown dataset"),
    ],
)
def test_bad_arguments_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    write_images(tmp_path / "pets")
    (tmp_path / "file").write_text("x")
    for word, path in (("MISSING", "nowhere"), ("FILE", "file"), ("PETS", "pets")):
        arguments = [argument.replace(word, str(tmp_path / path)) for argument in arguments]
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
