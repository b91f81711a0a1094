"""The order of samples: a function of (seed, epoch), the same for any number of workers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.trainers.data.splits import AnySplit
from eman.trainers.data.stored import StoredSplit

#: Steps per window. Rows of shards are read and shuffled window by window.
WINDOW = 8

Array = np.ndarray[Any, Any]


def epoch_order(samples: int, seed: int, stream: int, epoch: int) -> Tensor:
    """Return an epoch's permutation of the samples, a function of (seed, stream, epoch): int64, ``(samples,)``."""
    words = np.random.SeedSequence((seed, stream, epoch)).generate_state(1, np.uint64)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(int(words[0] >> np.uint64(1))))


def grouped_order(
    group_N: Array, generator: np.random.Generator, *, first: int, devices: int, batch: int, steps: int
) -> Array:
    """Return an epoch's permutation of the rows of shards in which few row groups are read at a time.

    Row groups come in random order, and rows are shuffled within windows of ``steps`` batches. Within a window each
    device takes rows of consecutive groups, so a worker only reads the groups of its devices. Window and device follow
    from a row's global position, so the order depends on the arguments only.

    Args:
        group_N: Row group of each row.
        generator: Source of randomness.
        first: Global position of the epoch's first row.
        devices: Number of devices.
        batch: Rows of a global batch.
        steps: Steps per window.

    Returns:
        int64, ``(N,)``.
    """
    count = len(group_N)
    ranks = generator.permutation(int(group_N.max()) + 1)
    shuffled = generator.permutation(count)
    rows = shuffled[np.argsort(ranks[group_N[shuffled]], kind="stable")]
    position = first + np.arange(count)
    window, device = position // (steps * batch), position % devices
    # Positions sorted by window and device, in random order within both; rows fill them group by group.
    places = np.lexsort((generator.random(count), device, window))
    order = np.empty(count, np.int64)
    order[places] = rows
    return order


class Stream:
    """An endless sequence of global batches over a split, in an order that is a function of (seed, epoch).

    Each epoch is a permutation. A batch may span two epochs, so no sample is skipped. Rows of shards are permuted by
    :func:`grouped_order`.

    Args:
        split: The samples.
        batch: Images in a global batch.
        seed: The run's seed.
        number: Number of the stream within the run.
        devices: Number of devices.
    """

    def __init__(self, split: AnySplit, batch: int, seed: int, number: int, devices: int = 1) -> None:
        self.split, self.batch, self.seed, self.number, self.devices = split, batch, seed, number, devices
        self.group_N = split.groups() if isinstance(split, StoredSplit) else None
        self._order: dict[int, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the indices in the split and the epochs of a step's batch, both int64, ``(batch,)``."""
        first = step * self.batch
        position = torch.arange(first, first + self.batch)
        epoch, place = position // len(self.split), position % len(self.split)
        index = torch.empty_like(position)
        for number in epoch.unique().tolist():
            mask = epoch == number
            index[mask] = self._epoch(number)[place[mask]]
        return index, epoch

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._order:
            self._order = {e: o for e, o in self._order.items() if e == epoch - 1}
            if self.group_N is None:
                self._order[epoch] = epoch_order(len(self.split), self.seed, self.number, epoch)
            else:
                order = grouped_order(
                    self.group_N,
                    np.random.default_rng((self.seed, self.number, epoch)),
                    first=epoch * len(self.split),
                    devices=self.devices,
                    batch=self.batch,
                    steps=WINDOW,
                )
                self._order[epoch] = torch.from_numpy(order)
        return self._order[epoch]
