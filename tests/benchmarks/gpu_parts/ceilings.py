"""Part `ceilings`: the card and its software, its measured bandwidth, and its measured rate of matrix products."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from eman.platform.machine import cores
from gpu_parts.report import Report
from gpu_parts.timing import on_gpu, step_seconds


def about() -> dict[str, Any]:
    """Return the machine's and the software's names and versions."""
    found: dict[str, Any] = {
        "card": torch.cuda.get_device_name(0) if on_gpu() else "none (CPU)",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu() else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu() else None,
        "cores": cores(),
    }
    if on_gpu():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products and convolutions."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


def _copy(mebibytes: int) -> dict[str, Any]:
    """Copy between buffers that do not fit in the cache, in turns."""
    device = "cuda" if on_gpu() else "cpu"
    sources = [torch.randint(0, 255, (mebibytes * 2**20,), dtype=torch.uint8, device=device) for _ in range(2)]
    pairs = [(source, torch.empty_like(source)) for source in sources]
    turn = iter(range(10**9))

    def copy() -> None:
        source, target = pairs[next(turn) % 2]
        target.copy_(source)

    seconds = statistics.median(step_seconds(copy, 40, warmup=5, most=3.0))
    assert torch.equal(*pairs[0])
    return {"gb_per_s": _rounded(2 * mebibytes * 2**20 / seconds / 1e9), "mib": mebibytes}


def _product(kind: torch.dtype, size: int, *, tf32_allowed: bool = False) -> dict[str, Any]:
    device = "cuda" if on_gpu() else "cpu"
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    with tf32(tf32_allowed):
        seconds = statistics.median(step_seconds(lambda: torch.mm(a, b, out=out), 20, warmup=3, most=3.0))
    return {"tflop_per_s": _rounded(2 * size**3 / seconds / 1e12), "size": size}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def measure(report: Report, *, dry: bool) -> None:
    """Measure the ceilings with which the other parts compare."""
    size, memory = (64, 1) if dry else (8192, 2048)
    report.attempt("copy", lambda: _copy(memory))
    report.attempt("bf16 product", lambda: _product(torch.bfloat16, size))
    report.attempt("TF32 product", lambda: _product(torch.float32, size, tf32_allowed=True))
    report.attempt("float32 product", lambda: _product(torch.float32, size))
    report.attempt("float64 product", lambda: _product(torch.float64, size // 2))
