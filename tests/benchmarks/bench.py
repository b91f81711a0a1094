"""Benchmarks of the parts: `make bench`, or `python tests/benchmarks/bench.py NAME...` for some of them.

Each comparison alternates its two sides, so that a machine whose speed drifts slows both, and reports medians and
ratios taken in one run. Nothing here passes or fails. A run of all of them is added to docs/benchmarks.json, from which
`history.py` makes the last part of docs/performance.md.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import history
import streaming
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from eman.evaluation.compute import knn, linear, lowshot
from eman.evaluation.features import Features
from eman.evaluation.protocols.linear import LinearSpec
from eman.evaluation.protocols.lowshot import LowShotSpec
from eman.platform.errors import UserError, named
from eman.platform.machine import cores, fast_bf16
from eman.platform.store.provenance import git_revision
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.mini import MINI
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.backbones.state import recompute_blocks
from eman.trainers.data import catalog as data
from eman.trainers.data import label_sets
from eman.trainers.data.splits import Split
from eman.trainers.losses.byol import projector_and_predictor
from eman.trainers.losses.moco import projector
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import DeviceBatchNorm, norm_relu
from eman.trainers.norm.teacher import Teacher
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training


def medians(
    sides: dict[str, Callable[[], None]],
    rounds: int,
    *,
    warmup: int = 2,
    pause: float = 0.0,
    before: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, float]:
    """Median seconds of each side, after a warm-up, the sides taking turns.

    ``pause`` seconds after each turn let its background workers come to rest, so that they do not slow the next side;
    ``before`` is called ahead of a side's turn and not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + warmup):
        for name, call in sides.items():
            if before and name in before:
                before[name]()
            started = time.perf_counter()
            call()
            if round_ >= warmup:
                times[name].append(time.perf_counter() - started)
            time.sleep(pause)
    return {name: statistics.median(values) for name, values in times.items()}


#: A line to print, and how many times as fast the first of two sides is as the second, by name.
Found = tuple[str, dict[str, float]]


def teacher_update() -> Found:
    """One fused update against the usual loop over two state dicts."""
    training = Training.fresh(MINI.run("moco", "eman"), Workspace.from_environment())
    teacher, student = training.teacher, training.student
    assert teacher is not None
    assert teacher.network is not None
    network = teacher.network

    @torch.no_grad()
    def loop() -> None:
        source = student.state_dict()
        for name, tensor in network.state_dict().items():
            tensor.copy_(tensor * 0.99 + source[name] * 0.01 if tensor.is_floating_point() else source[name])

    found = medians({"fused": lambda: teacher.update(student), "loop": loop}, 300)
    step = medians({"step": partial(one_step, training)}, 12)["step"]
    return (
        f"teacher update   fused {1e6 * found['fused']:.0f} us, loop over the state dict {1e6 * found['loop']:.0f} us: "
        f"{found['loop'] / found['fused']:.1f}x faster, "
        f"{100 * found['fused'] / step:.2f} % of a step of {1e3 * step:.0f} ms"
    ), {"fused / loop": found["loop"] / found["fused"]}


class PairsOfImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two views of an image by torchvision's transforms on PIL images, one sample at a time."""

    def __init__(self, split: Split, first: transforms.Compose, second: transforms.Compose) -> None:
        self.split, self.first, self.second = split, first, second

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.fromarray(self.split.images[index, 0].numpy())
        return self.first(image), self.second(image)


def _transforms(blur: float, solarize: float) -> transforms.Compose:
    steps = [
        transforms.RandomResizedCrop(28, (0.2, 1)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4)], 0.8),
        transforms.RandomApply([transforms.GaussianBlur(7, (0.025, 0.5))], blur),
    ]
    if solarize:
        steps.append(transforms.RandomSolarize(128, solarize))
    return transforms.Compose(
        [*steps, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(0.286, 0.353)]
    )


class _PerSample:
    """The usual way: PIL and a DataLoader, float32, stock batch norm on the whole batch, an EMA loop in Python."""

    def __init__(self, spec: RunSpec, loader_workers: int) -> None:
        self.spec = spec
        dataset, backbone = (
            data.load(spec.data.dataset, Workspace.from_environment()),
            backbone_named(spec.network.backbone),
        )
        blurs = {"moco": ((0.5, 0), (0.5, 0)), "byol": ((1.0, 0), (0.1, 0.2))}[spec.method.name]
        pairs = PairsOfImages(dataset.train, *(_transforms(*blur) for blur in blurs))
        self.loader = DataLoader(
            pairs,
            spec.method.images_per_step,
            shuffle=True,
            drop_last=True,
            num_workers=loader_workers,
            persistent_workers=loader_workers > 0,
        )
        heads = {"moco": projector, "byol": projector_and_predictor}[spec.method.name](
            spec.method, backbone.features, 10
        )
        self.student = nn.Sequential(backbone.build(1), *heads.values())
        import copy

        self.followed = self.student if spec.method.name == "moco" else self.student[:-1]
        self.teacher = copy.deepcopy(self.followed)
        self.queue = nn.functional.normalize(torch.randn(4096, 64), dim=1)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.06, 0.9, weight_decay=1e-4)
        self.step = {"moco": self._moco, "byol": self._byol}[spec.method.name]
        self.batches = self._endless()

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self.loader

    def _moco(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        query = nn.functional.normalize(self.student(a), dim=1)
        with torch.no_grad():
            key = nn.functional.normalize(self.teacher(b), dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T], 1) / 0.2
        self.queue = torch.cat([self.queue[len(key) :], key])
        return nn.functional.cross_entropy(logits, torch.zeros(len(a), dtype=torch.int64))

    def _byol(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        similarity = nn.functional.cosine_similarity
        with torch.no_grad():
            target_a, target_b = self.teacher(a), self.teacher(b)
        return 4 - 2 * (similarity(self.student(a), target_b).mean() + similarity(self.student(b), target_a).mean())

    def drain(self) -> None:
        """Takes what the loader's workers have prepared while others were measured, so that it does not count."""
        for _ in islice(self.batches, 4 if self.loader.num_workers else 0):
            pass

    def run(self, steps: int) -> None:
        for a, b in islice(self.batches, steps):
            loss = self.step(a, b)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for mine, theirs in zip(self.teacher.parameters(), self.followed.parameters(), strict=True):
                    mine.copy_(mine * 0.99 + theirs * 0.01)


def _train_on_command(spec: RunSpec, connection: Connection, rank: int, meet: str) -> None:
    """A process with one thread; trains as many steps as it is told, alone or as one of a run's workers."""
    torch.set_num_threads(1)
    if meet:
        torch.distributed.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=cores())
    training = Training.fresh(spec, Workspace.from_environment())
    while steps := connection.recv():
        for _ in range(steps):
            training.train_step()
        connection.send(steps)


class Processes:
    """One process a core: the workers of one run, or runs side by side, as a sweep trains them."""

    def __init__(self, spec: RunSpec, *, together: bool) -> None:
        self.runs = 1 if together else cores()
        context = multiprocessing.get_context("spawn")
        self.connections = []
        meet = f"{tempfile.mkdtemp(prefix='bench')}/meet" if together else ""
        for rank in range(cores()):
            ours, theirs = context.Pipe()
            context.Process(target=_train_on_command, args=(spec, theirs, rank, meet), daemon=True).start()
            self.connections.append(ours)

    def run(self, steps: int) -> None:
        for connection in self.connections:
            connection.send(steps)
        for connection in self.connections:
            if steps:
                connection.recv()


def _beside_the_usual(title: str, spec: RunSpec, loaders: Sequence[int], steps: int, rounds: int) -> Found:
    """Images a second of one run in one process with all threads, of one run with a worker a core, and of runs side by
    side, one a core; against the usual pipeline with all cores and so many workers that load. Ours simulate devices, in
    bf16 where the CPU has it.
    """
    processes = {
        f"{cores()} workers": Processes(spec, together=True),
        "side by side": Processes(spec, together=False),
    }
    ours = Training.fresh(spec, Workspace.from_environment())

    def run() -> None:
        for _ in range(steps):
            ours.train_step()

    usual = {f"PIL + DataLoader, {workers} workers": _PerSample(spec, workers) for workers in loaders}
    sides: dict[str, Callable[[], None]] = {"one process": run}
    sides |= {name: partial(side.run, steps) for name, side in (*processes.items(), *usual.items())}
    found = medians(sides, rounds, warmup=1, pause=1.5, before={name: p.drain for name, p in usual.items()})
    speed = {name: steps * spec.method.images_per_step / seconds for name, seconds in found.items()}
    for name, side in processes.items():
        side.run(0)
        speed[name] *= side.runs
    best = max(value for name, value in speed.items() if name in usual)
    ratios = {name: speed[name] / best for name in speed if name not in usual}
    return (
        f"{title:<16} "
        + ", ".join(f"{name} {value:,.0f} images/s" for name, value in speed.items())
        + ": "
        + ", ".join(f"{ratio:.1f}x" for ratio in ratios.values())
        + f" {'the faster of these' if len(usual) > 1 else 'that'}"
    ), {f"{name} / PIL + DataLoader": ratio for name, ratio in ratios.items()}


def end_to_end(method: str) -> Found:
    """The mini net, with its 64 devices."""
    return _beside_the_usual(method, MINI.run(method, "eman"), (0, 2), steps=12, rounds=5)


def resnet18(method: str) -> Found:
    """ResNet-18 with the stem for small images: 8 devices, batch 64. Few steps: on two cores without bf16 one takes
    seconds.
    """
    fields = {"backbone": "resnet18-small", "batch": 64, "devices": 8, "statistics_passes": 0}
    spec = MINI.run(method, "eman", overrides=fields)
    return _beside_the_usual(f"ResNet-18 {method}", spec, (2,), steps=2, rounds=3)


def _teacher_passes() -> dict[str, Callable[[], None]]:
    """A forward pass of an EMAN teacher, of a BN teacher, and of one with PyTorch's own batch norm (one device)."""
    torch.manual_seed(0)
    images, spec = torch.randn(256, 1, 28, 28), MINI.run("moco", "bn")
    stock = nn.Sequential(backbone_named(spec.network.backbone).build(1), *projector(spec.method, 64, 10).values())
    kinds = {
        name.upper(): Teacher(Training.fresh(MINI.run("moco", name), Workspace.from_environment()).student, name)
        for name in ("eman", "bn")
    }
    kinds["PyTorch's BN"] = Teacher(stock, "bn")

    def forward(teacher: Teacher) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16()):
            teacher(images)

    return {title: partial(forward, teacher) for title, teacher in kinds.items()}


def teachers() -> Found:
    """EMAN's teacher beside those that normalize with the statistics of their batch."""
    found = medians(_teacher_passes(), 40)
    eman = found["EMAN"]
    ratios = {f"EMAN / {title}": seconds / eman for title, seconds in found.items() if title != "EMAN"}
    return (
        "teacher forward  "
        + ", ".join(f"{title} {1e3 * seconds:.1f} ms" for title, seconds in found.items())
        + ": "
        + " and ".join(f"{ratio:.2f}x" for ratio in ratios.values())
        + " faster"
    ), ratios


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within, PyTorch's operations take this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


#: PyTorch's names for what takes most of a step's time.
_PARTS = {
    "convolutions forward": ("aten::mkldnn_convolution",),
    "convolutions backward": ("aten::convolution_backward",),
    "batch norms": ("_BatchNorm", "_BatchNormBackward", "aten::native_batch_norm"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
}


def parts() -> Found:
    """Where the time of a step and of a teacher's pass goes, on one thread, by PyTorch's profiler. These are shares, no
    ratios of two sides: they tell what is left to gain.
    """
    trainings = {
        name: Training.fresh(MINI.run(name, "eman"), Workspace.from_environment())
        for name in ("fixmatch", "moco", "byol")
    }
    calls = {f"step of {name}": partial(one_step, training) for name, training in trainings.items()}
    calls |= {f"teacher {title}": call for title, call in _teacher_passes().items()}
    lines = []
    for title, call in calls.items():
        with threads(1):
            medians({title: call}, 1, warmup=5)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                started = time.perf_counter()
                for _ in range(10):
                    call()
                wall = time.perf_counter() - started
        spent = {event.key: event.self_cpu_time_total / 1e6 for event in profile.key_averages()}
        shares = {part: sum(spent.get(name, 0) for name in names) / wall for part, names in _PARTS.items()}
        lines.append(
            f"parts            {title} {100 * wall:.1f} ms: "
            + ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items() if share)
        )
    return "\n".join(lines), {}


def one_step(training: Training) -> None:
    """A step without its loss."""
    training.train_step()


def fused_norms() -> Found:
    """Batch norm over 64 devices of 4 images, a shortcut's addition and ReLU, forward and backward, at the three sizes
    of the mini net: by the kernels, and by PyTorch's own operations in the layout that suits them.
    """
    torch.manual_seed(0)
    kind = torch.bfloat16 if fast_bf16() else torch.float32
    passes: dict[str, list[Callable[[], None]]] = {"kernels": [], "PyTorch": []}
    for channels, size in ((16, 14), (32, 7), (64, 4)):
        for name, layout in (("kernels", torch.channels_last), ("PyTorch", torch.contiguous_format)):
            layer = DeviceBatchNorm(channels, devices=64)
            x, shortcut, grad = (
                torch.randn(256, channels, size, size).to(kind).contiguous(memory_format=layout) for _ in range(3)
            )
            passes[name].append(partial(_norm_pass, layer, x.requires_grad_(), shortcut.requires_grad_(), grad))

    def run(name: str) -> None:
        for there_and_back in passes[name]:
            there_and_back()

    found = medians({name: partial(run, name) for name in passes}, 40)
    ratio = found["PyTorch"] / found["kernels"]
    return (
        f"batch norm       64 devices, shortcut, ReLU, there and back: kernels {1e3 * found['kernels']:.1f} ms, "
        f"PyTorch's operations {1e3 * found['PyTorch']:.1f} ms: {ratio:.1f}x faster"
    ), {"kernels / PyTorch": ratio}


def _norm_pass(layer: DeviceBatchNorm, x: torch.Tensor, shortcut: torch.Tensor, grad: torch.Tensor) -> None:
    for leaf in (x, shortcut, layer.weight, layer.bias):
        leaf.grad = None
    norm_relu(layer, x, shortcut).backward(grad)


def random_features(count: int, seed: int, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features around the centres of ten classes, by default as wide as the mini net's."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(0, 10, (count,), generator=generator)
    return torch.randn(count, width, generator=generator) + 2 * nn.functional.one_hot(labels_N, width), labels_N


def nearest_neighbours() -> Found:
    """kNN of 10,000 queries among 60,000 features, against the bare product and topk of that size."""
    (bank, labels), (queries, _) = random_features(60_000, 0), random_features(10_000, 1)
    transposed = bank.T.contiguous()

    def bare() -> None:
        for part in queries.split(knn.CHUNK):
            (part @ transposed).topk(20, dim=1, sorted=False)

    found = medians({"knn": lambda: [None, knn.predict(bank, labels, queries)][0], "bare": bare}, 5, warmup=1)
    return (
        f"kNN              60,000 x 10,000 x 64: {found['knn']:.2f} s, product and topk alone {found['bare']:.2f} s: "
        f"{found['knn'] / found['bare']:.2f}x the time"
    ), {"kNN / product and topk": found["bare"] / found["knn"]}


def linear_classifiers(sets: int, rates: tuple[float, ...]) -> Callable[[], None]:
    """Trains classifiers of so many label sets, 10 % of 50,000 cached features each, at these rates."""
    x_ND, labels_N = random_features(50_000, 0)
    spec = LinearSpec(label_sets=sets, views="cached")

    def train() -> None:
        chosen = torch.stack([label_sets.label_set(labels_N, 0.1, number) for number in range(sets)])
        linear.train(lambda index, epoch: linear.rows(x_ND, index), 64, labels_N, chosen, 10, spec, rates)

    return train


def linear_grid() -> Found:
    """Three rates and three label sets side by side, against one rate and one label set."""
    sides = {"grid": linear_classifiers(3, (0.5, 1.0, 2.0)), "one": linear_classifiers(1, (0.5,))}
    found = medians(sides, 5, warmup=1)
    return (
        f"linear           3 rates x 3 label sets of 5,000: {found['grid']:.2f} s, one of them {found['one']:.2f} s: "
        f"{found['grid'] / found['one']:.2f}x the time"
    ), {"grid of 9 / 9 by themselves": 9 * found["one"] / found["grid"]}


def low_shot() -> Found:
    """The SVM grid of 16 images a class with all threads, against one thread."""
    train, held_out, test = (random_features(count, seed, 2048) for seed, count in enumerate((2_000, 1_000, 1_000)))
    spec = LowShotSpec(shots=16)
    every = torch.get_num_threads()

    def run(number: int) -> None:
        with threads(number):
            lowshot.classify(spec, Features(*train, *held_out, *test))

    found = medians({"all": partial(run, every), "one": partial(run, 1)}, 3, warmup=1)
    return (
        f"low-shot         11 costs x 5 sets of 16 a class, 2,048 features: {found['all']:.2f} s on {every} threads, "
        f"{found['one']:.2f} s on one: {found['one'] / found['all']:.2f}x faster"
    ), {"all threads / one": found["one"] / found["all"]}


def execution() -> Found:
    """MoCo's step with each field that changes how it is computed and not what it is, and what ResNet-50 keeps for its
    backward pass, 64 images of 224 pixels, without and with recomputation."""
    fields: dict[str, dict[str, Any]] = {
        "plain": {},
        "recompute": {"recompute": True},
        "accumulate=4": {"accumulate": 4},
    }
    trainings = {
        name: Training.fresh(MINI.run("moco", "eman", 0, extra), Workspace.from_environment())
        for name, extra in fields.items()
    }
    found = medians({name: partial(one_step, training) for name, training in trainings.items()}, 15)
    kept = {}
    for recompute in (False, True):
        sizes: dict[int, tuple[int, torch.Tensor]] = {}

        def pack(x: torch.Tensor, sizes: dict[int, tuple[int, torch.Tensor]] = sizes) -> torch.Tensor:
            sizes[id(x.untyped_storage())] = (x.untyped_storage().nbytes(), x)
            return x

        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            network = convert_norm(backbone_named("resnet50").build(3), "bn").to("meta")
            if recompute:
                recompute_blocks(network)
            network(torch.empty(64, 3, 224, 224))
        parameters = {id(p.untyped_storage()) for p in network.parameters()}
        kept[recompute] = sum(size for storage, (size, _) in sizes.items() if storage not in parameters) / 2**30
    return (
        "execution        "
        + ", ".join(f"{name} {1e3 * s:.0f} ms ({s / found['plain']:.2f}x)" for name, s in found.items())
        + f"; ResNet-50 keeps {kept[False]:.1f} GiB, with recompute {kept[True]:.1f} GiB"
    ), {f"{name} / plain": found["plain"] / seconds for name, seconds in found.items() if name != "plain"}


BENCHMARKS: dict[str, Callable[[], Found]] = {
    "update": teacher_update,
    "teacher": teachers,
    "norm": fused_norms,
    "parts": parts,
    "knn": nearest_neighbours,
    "linear": linear_grid,
    "lowshot": low_shot,
    "moco": partial(end_to_end, "moco"),
    "byol": partial(end_to_end, "byol"),
    "resnet18-moco": partial(resnet18, "moco"),
    "resnet18-byol": partial(resnet18, "byol"),
    "execution": execution,
    "streaming": streaming.training,
    "decoding": streaming.decoding,
}


def machine() -> dict[str, Any]:
    """What ratios depend on."""
    return {
        "processor": history.processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bf16": "on" if fast_bf16() else "off",
    }


def about(machine: Mapping[str, Any]) -> str:
    """The line above all others."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}, "
        f"bf16 {machine['bf16']}; mini net, batch 256, but for ResNet-18; Fashion-MNIST 28 px; medians"
    )


def main(names: Sequence[str]) -> int:
    """Prints the comparisons of these names; by default all, which are then put down in the history."""
    try:
        for name in names:
            named("benchmark", name, BENCHMARKS)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(about(machine()))
    lines, ratios = [], {}
    for name in names or BENCHMARKS:
        line, found = BENCHMARKS[name]()
        print(line, flush=True)
        lines.append(line)
        ratios |= {f"{name}: {what}": round(ratio, 3) for what, ratio in found.items()}
    if not names:
        history.put_down({"date": f"{date.today()}", "revision": git_revision(), **machine()}, lines, ratios)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
