"""Part `fast`: images per second of ResNet-50 at 224 pixels, beside the usual implementation of MoCo-EMAN."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eman.platform.workspace import Workspace
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from gpu_parts import counting
from gpu_parts.ceilings import tf32
from gpu_parts.official import OfficialStep, Sizes, process_group
from gpu_parts.report import Report, release
from gpu_parts.timing import on_gpu, step_seconds, summary

#: Fields for tiny runs on a CPU.
TINY: dict[str, Any] = {"image_size": 32, "backbone": "small", "batch": 8, "precision": "float32"}
TINY_OWN: dict[str, dict[str, Any]] = {
    "moco": {"queue": 64, "hidden_dim": 32, "projection_dim": 16},
    "byol": {"hidden_dim": 32, "projection_dim": 16},
    "fixmatch": {"labelled_batch": 8, "label_fraction": 0.01},
}

#: Endings of the names of configurations with the operations of another one.
VARIANTS = ("compiled", "no graph", "fastest algorithms")

#: Least seconds for a configuration, and for one that is compiled.
NEEDS, NEEDS_COMPILED = 12.0, 60.0


def spec_of(method: str, scheme: str, *, dry: bool, **fields: Any) -> RunSpec:
    """Return a run at profile `imagenet`, on synthetic images, in bf16 and channels-last memory."""
    values: dict[str, Any] = {
        "dataset": "synthetic",
        "image_size": 224,
        "precision": "bf16",
        "channels_last": True,
        "devices": 1,
        "batch": 320 if method == "fixmatch" else 256,
        "cuda_graph": True if on_gpu() and not fields.get("compile") else None,
    }
    if dry:
        values |= {**TINY, **TINY_OWN[method]}
    return IMAGENET.run(method, scheme, overrides={**values, **fields})


def images_of(spec: RunSpec) -> int:
    """Return the images of a step as the project counts them: unlabelled ones, where a method has any."""
    return spec.method.images_per_step


@contextmanager
def training_of(spec: RunSpec, home: Path) -> Iterator[Training]:
    """Start a run, and stop its loaders at the end."""
    training = Training.fresh(spec, Workspace(home=home))
    try:
        yield training
    finally:
        training.close()


def measure(report: Report, home: Path, *, dry: bool) -> None:
    """Measure our configurations, each step one graph unless said otherwise, and the usual implementation."""
    bench = _Ours(report, home, dry)
    bench.run("MoCo-EMAN", "moco", "eman")
    official(report, dry)
    bench.run("BYOL, SyncBN", "byol", "syncbn")
    bench.run("FixMatch-EMAN", "fixmatch", "eman")
    bench.run("MoCo-EMAN, no graph", "moco", "eman", cuda_graph=False)
    if dry:
        return
    bench.run("MoCo-EMAN, fastest algorithms", "moco", "eman", nondeterministic=True)
    bench.run("MoCo, BN teacher", "moco", "bn")
    bench.run("MoCo-EMAN, 8 devices", "moco", "eman", devices=8)
    bench.run("BYOL-EMAN", "byol", "eman")
    bench.run("MoCo-EMAN, compiled", "moco", "eman", compile=True)
    bench.run("BYOL-EMAN, compiled", "byol", "eman", compile=True)


class _Ours:
    """Measures our configurations; those that differ in execution alone share their counts of operations."""

    def __init__(self, report: Report, home: Path, dry: bool) -> None:
        self.report, self.home, self.dry = report, home, dry

    def run(self, name: str, method: str, scheme: str, **fields: Any) -> None:
        """Measure a configuration."""
        needs = 0.0 if self.dry else NEEDS_COMPILED if fields.get("compile") else NEEDS

        def measured() -> dict[str, Any]:
            spec = spec_of(method, scheme, dry=self.dry, **fields)
            return self._timed(spec) | self._counts(name, spec)

        self.report.attempt(name, measured, needs=needs)

    def _timed(self, spec: RunSpec) -> dict[str, Any]:
        with training_of(spec, self.home) as training:
            started = time.perf_counter()
            first = float(training.train_step()[0])
            first_seconds = time.perf_counter() - started
            if on_gpu():
                torch.cuda.reset_peak_memory_stats()
            times = step_seconds(training.train_step, 1 if self.dry else 40, warmup=0 if self.dry else 8, most=6.0)
            row = {**summary(times), "images_per_step": images_of(spec), "first_loss": first}
            row["images_per_s"] = round(images_of(spec) / (row["ms"] / 1e3), 1)
            row["first_step_s"] = round(first_seconds, 2)
            row["last_loss"] = float(training.train_step()[0])
            if on_gpu():
                row["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
        return row

    def _counts(self, name: str, spec: RunSpec) -> dict[str, float]:
        """Return the operations and bytes of a step, counted once for configurations with the same operations."""
        base, _, last = name.rpartition(", ")
        base = base if last in VARIANTS else name
        counts: dict[str, Any] = self.report.found.setdefault("counts", {})
        if base not in counts:
            release()
            with training_of(spec.replace(compile=False, cuda_graph=False), self.home) as training:
                training.train_step()  # allocates what lasts, such as momentum buffers
                counts[base] = counting.count(training.train_step)
        return dict(counts[base])


def official(report: Report, dry: bool) -> None:
    """Measure the usual implementation: float32, with TF32 in convolutions (PyTorch's default), and with bf16."""
    sizes = Sizes(2, 32, "resnet18", 64, 16) if dry else Sizes()
    for name, allow, faster in (
        ("usual MoCo-EMAN, float32", False, False),
        ("usual MoCo-EMAN, TF32", True, False),
        ("usual MoCo-EMAN, bf16 and channels-last", True, True),
    ):
        report.attempt(name, lambda a=allow, f=faster: _official(sizes, a, f, dry), needs=0.0 if dry else NEEDS)


def _official(sizes: Sizes, allow_tf32: bool, faster: bool, dry: bool) -> dict[str, Any]:
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # as that implementation does
    try:
        with process_group() as started, tf32(False):
            torch.backends.cudnn.allow_tf32 = allow_tf32
            step = OfficialStep(sizes, ddp=started, faster=faster)
            if on_gpu():
                torch.cuda.reset_peak_memory_stats()
            times = step_seconds(step, 1 if dry else 20, warmup=0 if dry else 5, most=8.0)
            row = {**summary(times), "images_per_step": sizes.batch, "ddp": started, "last_loss": step.loss}
            row["images_per_s"] = round(sizes.batch / (row["ms"] / 1e3), 1)
            if on_gpu():
                row["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    finally:
        torch.backends.cudnn.benchmark = benchmark
    return row
