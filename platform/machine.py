"""Capabilities of this machine: cores, and fast bfloat16."""

import contextlib
import os
import sys
from functools import cache
from pathlib import Path


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Instruction sets that oneDNN requires for bfloat16 on x86.
_BF16_FLAGS = {"avx512bw", "avx512vl", "avx512dq"}


@cache
def fast_bf16() -> bool:
    """Return whether bfloat16 is faster than float32 on this machine.

    On x86 Linux without an NVIDIA or AMD GPU, read the CPU flags that PyTorch checks; elsewhere ask PyTorch, whose
    import takes a second.
    """
    gpus = any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg"))
    if sys.platform == "linux" and os.uname().machine == "x86_64" and not gpus:
        return _processor_flags() >= _BF16_FLAGS
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _processor_flags() -> set[str]:
    """Return the flags of the first CPU in ``/proc/cpuinfo``."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
