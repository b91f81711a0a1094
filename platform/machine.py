"""Capabilities of this machine: cores, and fast bfloat16."""

import os
from functools import cache
from pathlib import Path


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Instruction sets, as Linux names them, with which PyTorch computes in bfloat16 on x86 and on Arm.
_BF16_FLAGS = ({"avx512bw", "avx512vl", "avx512dq"}, {"bf16"})


@cache
def fast_bf16() -> bool:
    """Return whether bfloat16 is faster than float32 on this machine. Without a GPU this does not import torch."""
    if any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")):
        import torch

        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text(encoding="utf-8").splitlines() if processors.exists() else []
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return any(needed <= set(flags) for needed in _BF16_FLAGS)
