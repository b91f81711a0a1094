"""Part `profile`: where the time of a step goes, by PyTorch's profiler."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from gpu_parts import fast, small
from gpu_parts.report import Report
from gpu_parts.timing import on_gpu, step_seconds, summary, synchronize

#: Kinds of work by words in the names of operations, then of kernels; the first that fits counts.
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("copies", ("memcpy", "memset", "copy", "aten::to", "aten::cat", "catarray", "clone", "contiguous")),
    ("norms", ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "_norm", "welford")),
    ("convolutions", ("conv", "cudnn", "wgrad", "dgrad", "fprop", "implicit")),
    ("matrix products", ("aten::mm", "aten::addmm", "aten::bmm", "matmul", "linear", "gemm", "nvjet", "cutlass")),
    ("pooling", ("pool",)),
    ("optimizer and other lists", ("foreach", "multi_tensor")),
)
OTHER = "other element-wise work"

#: Names under which parts of a step are recorded.
RANGES = ("views", "teacher update", "optimizer")


def kind_of(name: str) -> str:
    """Return the kind of an operation or a kernel."""
    lowered = name.lower()
    return next((kind for kind, words in KINDS if any(word in lowered for word in words)), OTHER)


def _labelled(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call


def label(training: Training) -> None:
    """Record views, teacher update and optimizer under their names."""
    batches, teacher, optimizer = training.batches, training.teacher, training.optimizer
    places = ((RANGES[0], batches, "views"), (RANGES[1], teacher, "update"), (RANGES[2], optimizer, "step"))
    for name, owner, method in places:
        if owner is not None and hasattr(owner, method):
            setattr(owner, method, _labelled(name, getattr(owner, method)))


def measure(report: Report, home: Path, *, dry: bool) -> None:
    """Profile a large step, and a small one with and without a graph."""
    specs: dict[str, Callable[[], RunSpec]] = {}
    large, little = partial(fast.spec_of, "moco", "eman"), partial(small.spec_of, "moco")
    for title, spec_of in (("mini", little),) if dry else (("ResNet-50", large), ("mini", little)):
        specs[f"{title} MoCo-EMAN, no graph"] = partial(spec_of, dry=dry, cuda_graph=False)
        if on_gpu():
            specs[f"{title} MoCo-EMAN"] = partial(spec_of, dry=dry)
    kinds: dict[str, str] = {}
    for name, spec in specs.items():
        report.attempt(name, lambda spec=spec: _profile(spec(), home, kinds, dry), needs=0.0 if dry else 5.0)


def _profile(spec: RunSpec, home: Path, kinds: dict[str, str], dry: bool) -> dict[str, Any]:
    """Return the wall time of a step without the profiler, and the kernels' time under it by kind.

    Args:
        spec: The run.
        home: Work folder.
        kinds: Kinds of kernels by name, learned from runs without a graph; extended here.
        dry: Whether this is a tiny run on a CPU.
    """
    steps = 2 if dry else 5
    with fast.training_of(spec, home) as training:
        wall = summary(step_seconds(training.train_step, 3 if dry else 20, warmup=1 if dry else 8, most=5.0))
        label(training)
        for _ in range(1 if dry else 3):
            training.train_step()
        synchronize()
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu() else [])
        with profile(activities=activities, acc_events=True) as recorded:
            for _ in range(steps):
                training.train_step()
            synchronize()
        events = list(recorded.events())
    timed = list(_kernels(events, kinds) if on_gpu() else _operations(events))
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, list[float]] = defaultdict(list)
    for kind, name, microseconds in timed:
        by_kind[kind] += microseconds / steps / 1e3
        by_name[name].append(microseconds)
    busy = sum(by_kind.values())
    top = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:15]
    return {
        "ms": wall["ms"],
        "busy_ms": round(busy, 4),
        "idle_ms": round(max(0.0, wall["ms"] - busy), 4),
        "calls_per_step": round(len(timed) / steps),
        "ms_by_kind": {kind: round(ms, 4) for kind, ms in sorted(by_kind.items(), key=lambda item: -item[1])},
        "top": [
            {"name": name[:120], "ms": round(sum(times) / steps / 1e3, 4), "calls": len(times) / steps}
            for name, times in top
        ],
    }


def _kernels(events: list[Any], kinds: dict[str, str]) -> Iterator[tuple[str, str, float]]:
    """Yield the kind, name and microseconds of each kernel; a kernel has the kind of the operation that started it."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    seen: Counter[str] = Counter()
    for event in events:
        if event.device_type != DeviceType.CPU or not event.kernels:
            continue
        names = [event.name]
        parent = event.cpu_parent
        while parent is not None:
            names.append(parent.name)
            parent = parent.cpu_parent
        label = next((name for name in names if name in RANGES), None)
        kind = label or next((k for k in map(kind_of, names) if k != OTHER), OTHER)
        if any("graph" in name.lower() for name in names):
            continue  # kernels of a graph have no operation of their own
        for kernel in event.kernels:
            actual = kind if kind != OTHER else kind_of(kernel.name)
            votes[kernel.name][actual] += 1
            seen[kernel.name] += 1
            yield actual, kernel.name, float(kernel.duration)
    kinds |= {name: count.most_common(1)[0][0] for name, count in votes.items()}
    for event in events:
        if event.device_type == DeviceType.CPU or event.name in RANGES or event.name.startswith("ProfilerStep"):
            continue
        if seen[event.name] > 0:  # counted above
            seen[event.name] -= 1
            continue
        yield kinds.get(event.name) or kind_of(event.name), event.name, float(event.time_range.elapsed_us())


def _operations(events: list[Any]) -> Iterator[tuple[str, str, float]]:
    """Yield the kind, name and own microseconds of each operation on a CPU."""
    for event in events:
        own = float(event.self_cpu_time_total)
        if own <= 0:
            continue
        parent, label = event.cpu_parent, event.name if event.name in RANGES else None
        while parent is not None and label is None:
            label = parent.name if parent.name in RANGES else None
            parent = parent.cpu_parent
        yield label or kind_of(event.name), event.name, own


def shares(row: Mapping[str, Any]) -> dict[str, float]:
    """Return each kind's share of a step's time, and that of the gaps in which the device waits."""
    total = max(row["ms"], row["busy_ms"])
    parts = {**row["ms_by_kind"], "idle": row["idle_ms"]}
    return {kind: ms / total for kind, ms in parts.items() if ms / total >= 0.005}
