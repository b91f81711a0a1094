"""Random numbers that are a function of (seed, epoch, sample, view) only.

They do not depend on the number of workers, on how a batch is split, or on where a run resumes.

Shapes: B samples, D draws.
"""

import copy

import torch
from torch import Tensor

from eman.trainers.hashing import GOLDEN, mix, signed

#: Draws computed at once: enough for one self-supervised view.
_BLOCK = 40


class Draws:
    """Uniform numbers in [0, 1) for a batch: a counter-based hash of (seed, epoch, sample, view, draw number).

    Args:
        seed: The run's seed.
        epoch_B: int64, ``(B,)``, epoch of each sample.
        sample_B: int64, ``(B,)``, number of each sample in its split.
        view: Number of the view; views of a sample have independent draws.
    """

    def __init__(self, seed: int, epoch_B: Tensor, sample_B: Tensor, view: int) -> None:
        golden = signed(GOLDEN)
        key_B = mix(epoch_B * 64 + view + signed(seed * golden))
        self.key_B = mix(key_B ^ (sample_B * golden))
        self.count = 0
        self._block_BD = self._draw(0, _BLOCK)

    def _draw(self, start: int, stop: int) -> Tensor:
        counter = torch.arange(start + 1, stop + 1, device=self.key_B.device)
        bits = mix(self.key_B.unsqueeze(1) + counter * signed(0xD1B54A32D192ED03))
        return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)

    def __call__(self, number: int = 1) -> Tensor:
        """Return the next ``number`` draws of each sample: float32, ``(B, number)``."""
        start, self.count = self.count, self.count + number
        if self.count <= _BLOCK:
            return self._block_BD[:, start : self.count]
        return self._draw(start, self.count)

    def of(self, part: Tensor) -> "Draws":
        """Return the draws of the samples at indices ``part``, starting from the first draw."""
        other = copy.copy(self)
        other.key_B, other._block_BD, other.count = self.key_B[part], self._block_BD[part], 0
        return other

    def skip(self, number: int) -> None:
        """Skip draws that have been used elsewhere."""
        self.count += number

    def between(self, low: float, high: float) -> Tensor:
        """Draw a number in [low, high) for each sample: float32, ``(B,)``."""
        return low + (high - low) * self(1)[:, 0]
