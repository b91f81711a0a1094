"""The machine: its cores, and how busy it is while a run trains, by MLflow's own system metrics.

MLflow's own thread would write to the store by itself, by default every 10 seconds, of which a short run has none, and
ends where a store is away. These are logged with an epoch's, and go the way of all metrics, which a store that is away
does not lose.
"""

import contextlib
import os
import time
from typing import Any

_SAMPLE_SECONDS = 5.0


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
