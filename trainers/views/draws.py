"""Random draws that are a function of (seed, epoch, sample, view), and of nothing else.

Neither workers, nor the slicing of a batch, nor a resume in mid-epoch can change one.

Shapes: B samples, D draws.
"""

import copy

import torch
from torch import Tensor

_MASK = (1 << 64) - 1

#: Draws that are made at once: those of one self-supervised view.
_BLOCK = 40


def _signed(value: int) -> int:
    """Return the int64 that holds a 64-bit pattern."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer: every input bit changes every output bit with probability about one half."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class Draws:
    """Uniform numbers in [0, 1) for a batch: a counter-based hash of (seed, epoch, sample, view, draw number).

    Args:
        seed: The run's seed.
        epoch_B: int64, the epoch of each sample.
        sample_B: int64, each sample's number in its split.
        view: Number of the view; views of one sample are drawn independently.
    """

    def __init__(self, seed: int, epoch_B: Tensor, sample_B: Tensor, view: int) -> None:
        golden = _signed(0x9E3779B97F4A7C15)
        key_B = _mix(epoch_B * 64 + view + _signed(seed * golden))
        self.key_B = _mix(key_B ^ (sample_B * golden))
        self.count = 0
        self._block_BD = self._draw(0, _BLOCK)

    def _draw(self, start: int, stop: int) -> Tensor:
        counter = torch.arange(start + 1, stop + 1, device=self.key_B.device)
        bits = _mix(self.key_B.unsqueeze(1) + counter * _signed(0xD1B54A32D192ED03))
        return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)

    def __call__(self, number: int = 1) -> Tensor:
        """Return the next ``number`` draws of every sample: float32, ``(B, number)``."""
        start, self.count = self.count, self.count + number
        if self.count <= _BLOCK:
            return self._block_BD[:, start : self.count]
        return self._draw(start, self.count)

    def of(self, part: Tensor) -> "Draws":
        """Return the draws of some of the samples, from the first one on."""
        other = copy.copy(self)
        other.key_B, other._block_BD, other.count = self.key_B[part], self._block_BD[part], 0
        return other

    def skip(self, number: int) -> None:
        """Skip draws that were used elsewhere."""
        self.count += number

    def between(self, low: float, high: float) -> Tensor:
        """Draw one number from [low, high) for every sample: ``(B,)``."""
        return low + (high - low) * self(1)[:, 0]
