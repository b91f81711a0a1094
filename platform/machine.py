"""The machine: its cores, and how busy it is while a run trains, by MLflow's own system metrics.

MLflow's own thread would write to the store by itself, by default every 10 seconds, of which a short run has none, and
ends where a store is away. These are logged with an epoch's, and go the way of all metrics, which a store that is away
does not lose.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

_SAMPLE_SECONDS = 5.0


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Instructions that oneDNN wants for bfloat16 on an x86 processor.
_BF16_FLAGS = {"avx512bw", "avx512vl", "avx512dq"}


def fast_bf16() -> bool:
    """Whether bfloat16 is faster than float32 here.

    On Linux on x86 without an NVIDIA or AMD GPU the processor's flags tell, as they tell PyTorch; elsewhere PyTorch is
    asked, whose import takes a second.
    """
    gpus = any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg"))
    if sys.platform == "linux" and os.uname().machine == "x86_64" and not gpus:
        return _processor_flags() >= _BF16_FLAGS
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _processor_flags() -> set[str]:
    """The flags of the first processor, as Linux lists them."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


class Usage:
    """Processors, memory, network and GPUs of the machine that this process runs on, sampled every few seconds.

    All are means over the samples but network, which is in megabytes since the start.
    """

    def __init__(self) -> None:
        import psutil
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
        from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

        self._monitors: list[Any] = []
        for maker in (CPUMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
            with contextlib.suppress(Exception):  # of several kinds, where there is no such GPU
                self._monitors.append(maker())
        psutil.cpu_percent()  # counts from the call before
        self._sampled = self._taken = time.monotonic()

    def sample(self) -> None:
        """Takes a sample, if the last one is some seconds old."""
        if time.monotonic() - self._sampled > _SAMPLE_SECONDS:
            self._collect()

    def _collect(self) -> None:
        for monitor in self._monitors:
            monitor.collect_metrics()
        self._sampled = time.monotonic()

    def take(self, *, last: bool = False) -> dict[str, float]:
        """By the names that MLflow's UI looks for; nothing if the last time was seconds ago, except at the end."""
        if time.monotonic() - self._taken < _SAMPLE_SECONDS and not last:
            return {}
        self._collect()
        self._taken = time.monotonic()
        found: dict[str, float] = {}
        for monitor in self._monitors:
            found |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found
