"""Benchmarks of reading images: `python tests/benchmarks/streaming.py [--s3]`, or as two parts of bench.py.

ImageNet-shaped JPEGs (500 x 375, quality 90) become two random crops of 224 pixels each: from shards and from an image
folder by this project's loader, and by torchvision's ImageFolder with a DataLoader of as many processes. CPU seconds
count the processes that read, too; they vary less than speed on a machine with other work.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.mini import MINI
from eman.trainers.data import catalog
from eman.trainers.data.loader import Loader, Recipe
from eman.trainers.data.order import Stream
from eman.trainers.data.shard_writer import shard, write
from eman.trainers.training import Training

BATCH = 32


def write_jpegs(folder: Path, count: int) -> None:
    """Write smooth random colours with a little noise, in torchvision's layout."""
    generator = torch.Generator().manual_seed(0)
    for split, images in (("train", count), ("val", 4)):
        for number in range(images):
            place = folder / split / f"class{number % 4}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = torch.rand(1, 3, 24, 32, generator=generator)
            smooth = nn.functional.interpolate(coarse, size=(375, 500), mode="bilinear")[0]
            pixels = (255 * (0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=generator))).byte()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{number}.jpg", quality=90)


class TwoCrops:
    """Torchvision's usual views for ImageNet, twice."""

    def __init__(self) -> None:
        self.transform = transforms.Compose([transforms.RandomResizedCrop(224, (0.2, 1)), transforms.PILToTensor()])

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        return [self.transform(image), self.transform(image)]


def ours(workspace: Workspace, name: str, count: int, processes: int, share: float = 1.0) -> Iterator[int]:
    """Yield the images of each batch of this project's loader; ``share`` of the images are used."""
    split = catalog.load(name, workspace, 224).train
    if share < 1:
        split = split.take(torch.randperm(len(split))[: max(BATCH, round(share * len(split)))])
    stream = Stream(split, BATCH, seed=0, number=0, devices=8)
    loader = Loader(Recipe(stream, torch.arange(BATCH), (0, 1), 0, 0.2), count // BATCH, 0, processes)
    for step in range(count // BATCH):
        loader.at(step)
        yield BATCH
    loader.close()


def usual(workspace: Workspace, count: int, processes: int) -> Iterator[int]:
    """Yield the images of each batch of torchvision's ImageFolder and a DataLoader."""
    images = datasets.ImageFolder(f"{workspace.data}/jpegs/train", TwoCrops())
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=processes, persistent_workers=True)
    done = 0
    while done < count:
        for _ in loader:
            done += BATCH
            yield BATCH


def cpu_seconds() -> float:
    """CPU seconds of this process and of all that descend from it."""
    total = 0.0
    for process in [me := psutil.Process(), *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def measure(batches: Iterator[int], warmup: int) -> tuple[float, float]:
    """Return images a second, and CPU seconds an image, without the first batches and those read ahead at the end."""
    for _ in range(warmup):
        next(batches)
    started, cpu, images = time.perf_counter(), cpu_seconds(), 0
    speed = cost = 0.0
    for size in batches:
        images += size
        seconds, used = time.perf_counter() - started, cpu_seconds() - cpu
        speed, cost = images / seconds, used / images
    return speed, cost


@contextmanager
def local_s3(folder: Path) -> Iterator[str]:
    """Serve a copy of a folder by moto, in a process that speaks S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "images", f"data/{path.relative_to(folder)}")
    yield "s3://images/data"
    server.stop()


def decoding(count: int = 600, rounds: int = 3) -> tuple[str, dict[str, float]]:
    """Compare this project's loader with the usual one, with two processes each, from disk."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        write_jpegs(Path(folder) / "jpegs", count)
        workspace = Workspace(data=folder)
        shard("shards", workspace, f"{folder}/jpegs", None, lambda _: None)
        sides: dict[str, Callable[[], Iterator[int]]] = {
            name: partial(ours, workspace, name, 4 * count, 2) for name in ("shards", "jpegs")
        }
        sides["usual"] = partial(usual, workspace, 4 * count, 2)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                results[name].append(measure(side(), 16))
    speed, cost = ({n: statistics.median(r[k] for r in found) for n, found in results.items()} for k in (0, 1))
    words = ", ".join(f"{name} {speed[name]:.0f} images/s and {1e3 * cost[name]:.1f} ms CPU an image" for name in sides)
    ratios = {f"{name} / ImageFolder": cost["usual"] / cost[name] for name in ("shards", "jpegs")}
    return f"decoding         500 x 375 to two crops of 224 px, two processes: {words}", ratios


def training(steps: int = 48, rounds: int = 3) -> tuple[str, dict[str, float]]:
    """Compare MoCo with ResNet-18 at 64 pixels on images in memory and on the same ones from shards."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        workspace = Workspace(home=Path(folder) / "home", data=folder)
        images = catalog.load("synthetic", workspace, 64)
        write(images, "shards", Place(folder) / "shards", lambda _: None)
        small = {"held_out": 0, "devices": 8, "batch": 64, "queue": 1024, "backbone": "resnet18", "epochs": 1000}
        sides = {
            name: Training.fresh(MINI.run("moco", "eman", 0, {**small, **fields}), workspace)
            for name, fields in {
                "memory": {"dataset": "synthetic", "image_size": 64},
                "shards": {"dataset": "shards"},
            }.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                for _ in range(steps):
                    side.train_step()
                seconds[name].append(time.perf_counter() - started)
        sides["shards"].close()
    speed = {name: steps * 64 / statistics.median(values[1:]) for name, values in seconds.items()}
    return (
        f"streaming        ResNet-18, 64 px: in memory {speed['memory']:.1f} images/s, from shards "
        f"{speed['shards']:.1f}: {100 * speed['shards'] / speed['memory']:.0f} % of the speed"
    ), {"shards / memory": speed["shards"] / speed["memory"]}


def main() -> None:
    """Print the figures of both sides, from disk or from a local S3."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--s3", action="store_true", help="read from a local server that speaks S3")
    parser.add_argument("--count", type=int, default=600)
    arguments = parser.parse_args()
    if not arguments.s3:
        print(decoding(arguments.count)[0])
        return
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        write_jpegs(Path(folder) / "jpegs", arguments.count)
        shard("shards", Workspace(data=folder), f"{folder}/jpegs", None, lambda _: None)
        with local_s3(Path(folder)) as uri:
            for name, share in (("shards", 1.0), ("jpegs", 1.0), ("shards", 0.1)):
                speed, cost = measure(ours(Workspace(data=uri), name, 2 * arguments.count, 2, share), 16)
                print(f"S3, {100 * share:g} % of {name}: {speed:.0f} images/s, {1e3 * cost:.1f} ms CPU an image")


if __name__ == "__main__":
    main()
