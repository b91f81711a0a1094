"""Utilization of the machine during training, under the names of MLflow's system metrics.

The values are logged with each epoch's metrics, which are kept while the store is down. MLflow's own monitoring thread
would lose them.
"""

import contextlib
import time
from collections import defaultdict
from typing import Any

#: Seconds between samples.
_SAMPLE_SECONDS = 5.0

_MEGABYTE = 1e6


class Usage:
    """Utilization of CPUs, memory and NVIDIA GPUs, and the GPUs' power: means over samples."""

    def __init__(self) -> None:
        import psutil

        psutil.cpu_percent()  # it measures since the previous call
        self._gpus = _nvidia_gpus()
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._sampled = time.monotonic()

    def sample(self, *, now: bool = False) -> None:
        """Take a sample if the last one is old enough, or ``now``."""
        if not now and time.monotonic() - self._sampled < _SAMPLE_SECONDS:
            return
        import psutil

        memory = psutil.virtual_memory()
        self._samples["cpu_utilization_percentage"].append(psutil.cpu_percent())
        self._samples["system_memory_usage_megabytes"].append(memory.used / _MEGABYTE)
        self._samples["system_memory_usage_percentage"].append(100 * memory.used / memory.total)
        for number, gpu in enumerate(self._gpus):
            for name, value in _measure(gpu).items():
                self._samples[f"gpu_{number}_{name}"].append(value)
        self._sampled = time.monotonic()

    def take(self, *, last: bool = False) -> dict[str, float]:
        """Return the metrics since the previous call; none without samples, but always some at the ``last`` call."""
        self.sample(now=last)
        means = {f"system/{name}": round(sum(values) / len(values), 1) for name, values in self._samples.items()}
        self._samples.clear()
        return means


def _nvidia_gpus() -> list[Any]:
    """Return NVML's handles of the GPUs; none without an NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _measure(gpu: Any) -> dict[str, float]:
    """Return the metrics of a GPU; some GPUs do not report all of them."""
    import pynvml

    values: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        values["memory_usage_percentage"] = 100 * memory.used / memory.total
        values["memory_usage_megabytes"] = memory.used / _MEGABYTE
        values["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        values["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return values
