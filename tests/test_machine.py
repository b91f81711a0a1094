"""What is known about this machine."""

import platform  # noqa: TID251

import torch

from eman.platform.machine import fast_bf16
from eman.platform.usage import Usage


def test_bfloat16_is_known_without_torch() -> None:
    if platform.machine() == "x86_64" and not torch.cuda.is_available():
        assert fast_bf16() == torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def test_usage_has_the_names_that_mlflows_ui_shows() -> None:
    usage = Usage()
    assert usage.take() == {}  # not every step
    found = usage.take(last=True)
    assert set(found) >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
    }
    assert 0 < found["system/system_memory_usage_percentage"] < 100
