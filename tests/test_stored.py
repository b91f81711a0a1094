"""Image folders and shards: reading, order, streaming, and what is damaged."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import functional as tv

from eman.cli import main
from eman.evaluation.compute import labelled
from eman.evaluation.protocols.linear import LinearSpec
from eman.evaluation.trained import Trained
from eman.platform import storage
from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers import loop
from eman.trainers.data import catalog as data
from eman.trainers.data import decode, shard_writer, shards, stored
from eman.trainers.data.loader import Loader, Recipe
from eman.trainers.data.order import Stream, grouped_order
from eman.trainers.data.shard_writer import shard
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws

CLASSES, TRAIN, TEST = 4, 30, 8


def write_images(root: Path, rng: np.random.Generator) -> None:
    """An image folder of ImageNet's shape: JPEGs of many sizes, whose classes differ in colour."""
    for split, count in (("train", TRAIN), ("val", TEST)):
        for label in range(CLASSES):
            folder = root / split / f"n{label:04}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                pixels[..., label % 3] = 100 + pixels[..., label % 3] // 2
                size = tuple(int(n) for n in rng.integers(40, 80, 2))
                Image.fromarray(pixels).resize(size).save(folder / f"x_{number}.JPEG", quality=90)


@pytest.fixture(scope="session")
def flock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an image folder, ``birds``, and its shards, ``sharded``."""
    folder = tmp_path_factory.mktemp("flock")
    write_images(folder / "birds", np.random.default_rng(0))
    shard("sharded", Workspace(data=str(folder)), str(folder / "birds"), None, lambda _: None, rows=32)
    return folder


@pytest.fixture
def birds(flock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``flock`` that the test may change. Images are read in the test's own process."""
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    monkeypatch.setenv("EMAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EMAN_LOADER_PROCESSES", "0")
    data.forget()
    shutil.copytree(flock, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(name: str, method: str = "moco", **fields: Any) -> RunSpec:
    small = {"image_size": 32, "held_out": 20, "batch": 16, "devices": 4}
    small |= {"queue": 64} if method == "moco" else {"labelled_batch": 8, "label_fraction": 0.2}
    return SMOKE.run(method, "eman", 0, {"dataset": name, **small, **fields})


def test_a_folder_is_what_torchvisions_image_folder_sees(birds: Path) -> None:
    found, theirs = (
        data.load("birds", Workspace.from_environment(), 32),
        datasets.ImageFolder(str(birds / "birds" / "train")),
    )
    assert found.classes == tuple(theirs.classes)
    assert found.train.labels.tolist() == theirs.targets
    assert isinstance(found.train, stored.StoredSplit)
    names = [found.train.source.label(place) for place in found.train.places]
    assert names == [path for path, _ in theirs.samples]
    assert (len(found.train), len(found.test), found.train.shape) == (CLASSES * TRAIN, CLASSES * TEST, (3, 32, 32))


@pytest.mark.parametrize("name", ["birds", "sharded"])
def test_evaluation_sees_torchvisions_resize_and_centre_crop(birds: Path, name: str) -> None:
    split = data.load(name, Workspace.from_environment(), 32).train
    theirs = datasets.ImageFolder(str(birds / "birds" / "train"))
    images = torch.cat(list(split.batches(50)))
    for place in (0, 7, 65, 119):
        expected = tv.center_crop(tv.resize(theirs[place][0], round(32 * decode.MARGIN)), 32)
        assert torch.equal(images[place], tv.pil_to_tensor(expected))


@pytest.mark.parametrize("name", ["birds", "sharded"])
def test_crops_are_torchvisions_with_the_draws_of_the_views(birds: Path, name: str) -> None:
    split = data.load(name, Workspace.from_environment(), 32).train
    assert isinstance(split, stored.StoredSplit)
    index = torch.tensor([3, 50, 119])
    draws = [Draws(1, torch.full((3,), 2), split.ids[index], 0) for _ in range(2)]
    crops = split.crops(index, draws[0], 0.2)
    pictures = [datasets.ImageFolder(str(birds / "birds" / "train"))[int(place)][0] for place in index]
    heights, widths = (torch.tensor([getattr(p, side) for p in pictures]) for side in ("height", "width"))
    boxes = torch.stack(augment.crop_boxes(draws[1], heights, widths, 0.2), 1).int().tolist()
    for crop, picture, (top, left, height, width) in zip(crops, pictures, boxes, strict=True):
        expected = tv.resized_crop(picture, top, left, height, width, [32, 32])
        assert torch.equal(crop, tv.pil_to_tensor(expected))


def test_a_view_from_shards_is_the_view_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    shard("scans", Workspace.from_environment(), "digits", None, lambda _: None, rows=300)
    fields = {"images": 600, "batch": 300, "queue": 300, "devices": 4, "statistics_passes": 0}
    seen = {}
    for name in ("digits", "scans"):
        training = Training.fresh(SMOKE.run("moco", "bn", 0, {"dataset": name, **fields}), Workspace.from_environment())
        for step in range(2):
            index, _ = training.batches.streams["unlabelled"].at(step)
            ids = training.batches.streams["unlabelled"].split.ids[index]
            views, labels = training.batches.at(step)
            for row, sample in enumerate(ids.tolist()):
                seen[name, sample] = (views["query"][row], views["key"][row], int(labels["unlabelled"][row]))
        training.close()
    samples = {sample for _, sample in seen}
    assert len(seen) == 1200
    assert len(samples) == 600
    for sample in samples:
        ours, theirs = seen["scans", sample], seen["digits", sample]
        assert ours[2] == theirs[2]
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(("count", "first"), [(1000, 0), (1000, 1000), (1013, 2026)])
def test_the_order_of_shards_is_a_permutation_that_reads_locally(count: int, first: int) -> None:
    group_N = np.arange(count) // 20
    batch, devices, steps = 64, 8, 4

    def order(seed: int) -> np.ndarray[Any, Any]:
        generator = np.random.default_rng(seed)
        return grouped_order(group_N, generator, first=first, devices=devices, batch=batch, steps=steps)

    found = order(0)
    assert sorted(found.tolist()) == list(range(count))
    assert np.array_equal(found, order(0))
    assert not np.array_equal(found, order(1))
    position = first + np.arange(count)
    reads = sum(
        len(np.unique(group_N[found[(position // (steps * batch) == window) & (position % devices // 2 == worker)]]))
        for window in np.unique(position // (steps * batch))
        for worker in range(devices // 2)
    )
    # Four workers read each of the groups once, but for those that straddle a border between workers or windows.
    assert reads <= 2 * len(np.unique(group_N))
    assert reads < 4 * len(np.unique(group_N))


def batches(spec: RunSpec, steps: range) -> list[tuple[torch.Tensor, ...]]:
    training = Training.fresh(spec, Workspace.from_environment())
    try:
        return [tuple(training.batches.at(step)[0].values()) for step in steps]
    finally:
        training.close()


def loader(name: str, batch: int = 16, mine: torch.Tensor | None = None, processes: int = 0, most: int = 20) -> Loader:
    split = data.load(name, Workspace.from_environment(), 32).train
    stream = Stream(split, batch, seed=3, number=0, devices=4)
    recipe = Recipe(stream, torch.arange(batch) if mine is None else mine, (0, 1), 3, 0.2)
    return Loader(recipe, 20, most, processes)


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["birds", "sharded"])
def test_processes_make_the_same_batches_from_any_step(birds: Path, name: str) -> None:
    here, there = loader(name), loader(name, processes=2)
    expected = [here.at(step) for step in range(20)]
    for step in [*range(20), *range(11, 15), 3]:
        assert same(there.at(step), expected[step])
    there.close()
    assert same(there.at(12), expected[12])
    there.close()


@pytest.mark.parametrize("name", ["birds", "sharded"])
def test_workers_make_the_parts_of_the_same_batch(birds: Path, name: str) -> None:
    whole = loader(name)
    for worker in range(2):
        mine = torch.tensor([p for p in range(16) if p % 4 // 2 == worker])
        part = loader(name, mine=mine)
        for step in range(5, 9):
            images, index, epoch = whole.at(step)
            assert same(part.at(step), (images[:, mine], index[mine], epoch[mine]))


@pytest.mark.parametrize("method", ["moco", "fixmatch"])
def test_a_run_from_shards_stops_and_goes_on_bit_for_bit(birds: Path, method: str) -> None:
    spec = run("sharded", method, epochs=3)
    whole = loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "whole")))
    loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "cut")), stop_after=7)
    again = loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "cut")))
    assert again.resumed_from == 7
    states = [outcome.training.student.state_dict() for outcome in (whole, again)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("name", [pytest.param("birds", marks=pytest.mark.slow), "sharded"])
def test_every_protocol_takes_a_stored_set(birds: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    fields = [f"--set={k}={v}" for k, v in {"dataset": name, "image_size": 32, "held_out": 20}.items()]
    assert main(["train", "supervised", "--profile", "smoke", *fields, "--set=labelled_batch=8", "--set=epochs=1"]) == 0
    key = next(iter((birds / "home" / "runs").iterdir())).name
    for protocol in (["knn"], ["linear", "--set=views=augmented", "--set=epochs=2", "--set=label_fraction=0.2"]):
        assert main(["evaluate", key, "--protocol", *protocol]) == 0
    assert "top1" in capfd.readouterr().out


def test_shards_are_verified_and_what_is_damaged_is_named(birds: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "sharded", "--decode"]) == 0
    assert main(["data", "info", "sharded"]) == 0
    told = capfd.readouterr().out
    assert "120 images of 3 channels, several sizes" in told
    part = birds / "sharded" / "train" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1  # in an image
    part.write_bytes(content)
    assert main(["data", "verify", "sharded"]) == 2
    assert re.search(r"part-00001.parquet cannot be read .*CRC checksum", capfd.readouterr().err)
    part.write_bytes(content[:-40])
    assert main(["data", "verify", "sharded"]) == 2
    assert "part-00001.parquet cannot be read" in capfd.readouterr().err
    part.unlink()
    assert main(["train", "moco", "--profile", "smoke", "--set", "dataset=sharded", "--set", "image_size=32"]) == 2
    assert "part-00001.parquet cannot be read" in capfd.readouterr().err


def test_writing_goes_on_where_it_stopped(birds: Path) -> None:
    folder = birds / "sharded"
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").unlink()
    (folder / "train" / "part-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"half-written.*run the same"):
        shards.manifest(shards.Place(str(folder)))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    shard("sharded", Workspace.from_environment(), str(birds / "birds"), None, lambda _: None, rows=32)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert [path.name for path in after if after[path] != before.get(path)] == ["part-00002.parquet"]
    assert (folder / "manifest.json").read_text() == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": 99}, "layout 99, and this version reads 1"),
        ({"name": "fish"}, "holds shards of 'fish', not of 'sharded'"),
    ],
)
def test_shards_of_another_version_or_set_are_refused(birds: Path, change: dict[str, Any], message: str) -> None:
    place = birds / "sharded" / "manifest.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    data.forget()
    with pytest.raises(UserError, match=message):
        data.load("sharded", Workspace.from_environment(), 32)


def test_other_images_do_not_replace_shards(birds: Path) -> None:
    write_images(birds / "others", np.random.default_rng(1))
    with pytest.raises(UserError, match="shards of other images of sharded"):
        shard("sharded", Workspace.from_environment(), str(birds / "others"), None, lambda _: None)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no val", r"no images in val or test or 2021_valid"),
        ("loose", r"train/loose\.jpg is not in a class folder"),
        ("class", r"1 classes have test images and no training images, for example 'extra'"),
        ("empty", r"missing or empty"),
    ],
)
def test_a_wrong_layout_is_described(birds: Path, broken: str, message: str) -> None:
    root, one = birds / "birds", next((birds / "birds" / "val" / "n0000").iterdir())
    match broken:
        case "no val":
            (root / "val").rename(root / "validation")
        case "loose":
            (root / "train" / "loose.jpg").write_bytes(one.read_bytes())
        case "class":
            (root / "val" / "extra").mkdir()
            (root / "val" / "extra" / "a.jpg").write_bytes(one.read_bytes())
        case "empty":
            root.rename(birds / "elsewhere")
            root.mkdir()
    with pytest.raises(UserError, match=message):
        data.load("birds", Workspace.from_environment(), 32)


def test_sizes_must_be_told_where_images_differ(birds: Path) -> None:
    with pytest.raises(UserError, match=r"image_size is missing.*differ in size.*image_size=224"):
        data.load("birds", Workspace.from_environment())
    with pytest.raises(UserError, match="held in memory at 16 pixels"):
        data.load("digits", Workspace.from_environment(), 20)


@pytest.mark.parametrize("processes", [0, 2])
def test_corrupt_images_are_named_replaced_and_limited(
    birds: Path, caplog: pytest.LogCaptureFixture, processes: int
) -> None:
    bad = sorted((birds / "birds" / "train").rglob("*.JPEG"))[5:60:18]
    for path in bad:
        path.write_bytes(path.read_bytes()[:200])
    split = data.load("birds", Workspace.from_environment(), 32).train
    assert isinstance(split, stored.StoredSplit)
    tolerant = loader("birds", processes=processes)
    for step in range(15):
        images, index, _ = tolerant.at(step)
        assert images.flatten(2).any(2).all()  # no image is black
        assert not {str(path) for path in bad} & {split.source.label(place) for place in split.places[index]}
    assert set(tolerant.corrupt) == {str(path) for path in bad}
    assert sum("cannot be read" in message for message in caplog.messages) == len(bad)
    tolerant.close()
    strict = loader("birds", processes=processes, most=len(bad) - 1)
    with pytest.raises(UserError, match=rf"{len(bad)} images cannot be read: .*{bad[0].name}.*EMAN_MOST_CORRUPT"):
        _ = [strict.at(step) for step in range(15)]
    strict.close()


def test_labelled_images_from_an_index_file(birds: Path) -> None:
    folder = birds / "birds" / "indexes"
    folder.mkdir()
    chosen = [3, 7, 31, 35, 62, 66, 93, 99]
    (folder / "few.csv").write_text("Index\n" + "\n".join(str(n) for n in reversed(chosen)))
    spec_ = run("birds", "fixmatch", label_index="few", held_out=0, statistics_passes=0, epochs=1)
    training = loop.fit(spec_, Workspace.from_environment(), folder=Place(str(birds / "run"))).training
    assert training.labelled is not None
    assert training.train.ids[training.labelled].tolist() == chosen
    assert len(training.batches.streams["unlabelled"].split) == CLASSES * TRAIN - len(chosen)
    spec = LinearSpec(label_fraction=0.1, label_sets=2, label_index="few,few")
    shutil.copytree(birds / "run", str(Workspace.from_environment().run_folder(spec_.key)))
    found = labelled.label_sets(Trained(spec_.key, Workspace.from_environment()), spec)
    assert [training.train.ids[part].tolist() for part in found] == [chosen, chosen]
    (folder / "few.csv").write_text("Index\n5000")
    with pytest.raises(UserError, match=r"few\.csv lists image 5000"):
        Training.fresh(run("birds", "fixmatch", label_index="few"), Workspace.from_environment())
    with pytest.raises(UserError, match="not a CSV file with a column Index"):
        Training.fresh(run("birds", "fixmatch", label_index="none"), Workspace.from_environment())


def test_rows_are_found_by_their_bytes_and_neighbours_read_together(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "GROUP_ROWS", 5)
    shard("groups", Workspace.from_environment(), str(birds / "birds"), None, lambda _: None, rows=32)
    split = data.load("groups", Workspace.from_environment(), 32).train
    assert isinstance(split, stored.StoredSplit)
    files = sorted((birds / "birds" / "train").rglob("*.JPEG"), key=lambda p: (p.parent.name, p.name))
    assert split.source.encoded(split.places) == [path.read_bytes() for path in files]
    few = np.array([77, 3, 3, 110])
    assert split.source.encoded(few) == [files[place].read_bytes() for place in few]
    groups = split.groups()
    assert groups is not None
    assert np.bincount(groups).max() == 5
    reads = []

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read_at(self, count: int, first: int) -> bytes:
            reads.append(count)
            return bytes(self.file.read_at(count, first))

    opened = storage.Place.open
    monkeypatch.setattr(storage.Place, "open", lambda place: Counting(opened(place)))
    split.source.encoded(np.flatnonzero(groups == 7))
    assert len(reads) == 1
    assert reads[0] < 1.2 * sum(files[place].stat().st_size for place in np.flatnonzero(groups == 7))


def test_voc2007_has_several_classes_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAN_DATA", str(tmp_path))
    data.forget()
    with pytest.raises(UserError, match=r"VOCtrainval_06-Nov-2007\.tar"):
        data.load("voc2007", Workspace.from_environment(), 32)
    root = tmp_path / "voc2007" / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = {"000001": [("dog", 0), ("cat", 0)], "000002": [("cat", 0), ("dog", 1)], "000003": [("person", 0)]}
    for name, shown in objects.items():
        pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        inside = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in shown)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{inside}</annotation>")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000003\n")
    found = data.load("voc2007", Workspace.from_environment(), 32)
    assert found.classes == ("cat", "dog", "person")
    assert found.train.labels.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert found.test.labels.tolist() == [[0, 0, 1]]
    shard(
        "voc2007",
        Workspace.from_environment(),
        str(tmp_path / "voc2007"),
        str(tmp_path / "elsewhere" / "voc2007"),
        lambda _: None,
    )
    monkeypatch.setenv("EMAN_DATA", str(tmp_path / "elsewhere"))
    again = data.load("voc2007", Workspace.from_environment(), 32)
    assert torch.equal(again.train.labels, found.train.labels)
    assert torch.equal(next(again.train.batches(2)), next(found.train.batches(2)))


def test_synthetic_images_come_at_any_size() -> None:
    found = data.load("synthetic", Workspace.from_environment(), 48)
    assert found.train.shape == (3, 48, 48)
    assert torch.bincount(found.train.labels).min() > 200


GOOGLE = """
import http.server, sys, threading
http.server.HTTPServer = http.server.ThreadingHTTPServer  # by itself it serves one connection, and clients keep several
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), data_dir=sys.argv[2], default_bucket="images").start()
print("ready", flush=True)
threading.Event().wait()
"""


def _google(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # A process of its own: Arrow holds Python's lock while it closes a file, and a thread could not answer.
    command = [sys.executable, "-c", GOOGLE, port, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://images/data"
        server.kill()


def _amazon(monkeypatch: pytest.MonkeyPatch, _folder: Path) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="images")
    yield "s3://images/data"
    server.stop()


@pytest.fixture(params=[_amazon, _google], ids=["s3", "gs"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A bucket of a server on this machine that speaks S3, or Google's protocol."""
    storage._filesystem.cache_clear()
    yield from request.param(monkeypatch, tmp_path_factory.mktemp("bucket"))
    storage._filesystem.cache_clear()


def test_shards_and_folders_in_an_object_store(
    birds: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = {name: run(name, epochs=2, statistics_passes=0) for name in ("birds", "sharded")}
    local = {name: batches(spec[name], range(10)) for name in spec}
    assert (
        main(["data", "shard", "sharded", f"--source={birds / 'birds'}", f"--out={bucket}/sharded", "--rows=32"]) == 0
    )
    assert main(["data", "verify", f"{bucket}/sharded"]) == 0
    for path in (birds / "birds").rglob("*.JPEG"):
        (storage.Place(bucket) / str(path.relative_to(birds))).write(path.read_bytes())
    monkeypatch.setenv("EMAN_DATA", bucket)
    assert main(["data", "info", "sharded"]) == 0
    assert f"{bucket}/sharded: sharded, 4 classes" in capfd.readouterr().out
    for name, one_of in spec.items():
        remote = batches(one_of, range(10))
        for one, other in zip(local[name], remote, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert main(["data", "info", "nowhere"]) == 2
    assert "unknown dataset 'nowhere'" in capfd.readouterr().err
    assert data.own_sets(Workspace(data=bucket)) == ["sharded"]  # an image folder would have to be listed whole


def test_a_run_does_not_go_on_with_other_images(birds: Path) -> None:
    spec = run("birds", epochs=2)
    loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "cut")), stop_after=3)
    one = next((birds / "birds" / "train" / "n0000").iterdir())
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(one)
    data.forget()
    with pytest.raises(UserError, match="was trained on other images: birds had hash"):
        loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "cut")))
    loop.fit(spec, Workspace.from_environment(), folder=Place(str(birds / "whole")))
    for path in (birds / "birds").glob("*/n0003"):
        shutil.rmtree(path)  # three classes are left, and the head has four
    data.forget()
    shutil.copytree(birds / "whole", str(Workspace.from_environment().run_folder(spec.key)))
    with pytest.raises(UserError, match="was trained on other images: birds had hash"):
        _ = Trained(spec.key, Workspace.from_environment()).splits


def test_a_store_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("EMAN_DATA", "s3://bucket/data")
    data.forget()
    with pytest.raises(UserError, match=r"s3://bucket/data/imagenet.* cannot be reached") as caught:
        data.load("imagenet", Workspace.from_environment(), 224)
    assert "\n" not in str(caught.value)
    assert os.environ["EMAN_DATA"] == "s3://bucket/data"
