"""Random bits as a function of integers, on any device and without a generator's state."""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1

#: The odd constant of SplitMix64, the golden ratio times 2^64, by which counters are spread.
GOLDEN = 0x9E3779B97F4A7C15


def signed(value: int) -> int:
    """Return the int64 with the given 64-bit pattern."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix(x: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer to int64: every input bit changes every output bit with probability one half."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * signed(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def permutation(rows: int, seed: int, count: Tensor) -> Tensor:
    """Return a permutation as a function of (seed, count): int64, ``(rows,)``, on the device of ``count``.

    Args:
        rows: Number of rows.
        seed: Any integer.
        count: int64, a scalar.
    """
    row = torch.arange(rows, device=count.device)
    return torch.argsort(mix(mix(count + signed(seed * GOLDEN)) + row * signed(0xD1B54A32D192ED03)))
