"""Training batches of a split that is not in memory, read and cropped ahead with PyTorch's DataLoader.

The order comes from :class:`~eman.trainers.data.order.Stream`, and every crop from (seed, epoch, sample, view), so that
batches depend neither on the number of processes nor on the step at which reading starts.

Shapes: n images of a worker's batch, P views, A channels, S by S pixels.
"""

import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eman.platform.errors import UserError
from eman.trainers.data.decode import Array, random_crops, to_array
from eman.trainers.data.order import WINDOW, Stream
from eman.trainers.data.stored import StoredSplit
from eman.trainers.views.draws import Draws

log = logging.getLogger("eman")


@dataclass(frozen=True)
class Positions:
    """Indices in the split, and the epoch of each, both int64, ``(n,)``."""

    index_n: Array
    epoch_n: Array


@dataclass(frozen=True)
class Batch:
    """Images, uint8, ``(P, n, A, S, S)``; their positions; and the indices of unreadable ones in the batch."""

    images_PnAHW: Tensor
    positions: Positions
    bad: list[int]


@dataclass(frozen=True)
class Recipe:
    """How to make a worker's part of any step's batch.

    Attributes:
        stream: A stream over a stored split.
        mine: This worker's positions in a global batch.
        views: Numbers of the views that are made of each image.
        seed: The run's seed.
        crop_min: Smallest share of the image that a random crop may take.
    """

    stream: Stream
    mine: Tensor
    views: tuple[int, ...]
    seed: int
    crop_min: float

    @property
    def split(self) -> StoredSplit:
        """The stream's split."""
        if not isinstance(self.stream.split, StoredSplit):
            raise TypeError("a split in memory needs no loader")
        return self.stream.split

    def positions(self, step: int) -> Positions:
        """Return the positions that this worker reads for a step."""
        index, epoch = self.stream.at(step)
        return Positions(index[self.mine].numpy(), epoch[self.mine].numpy())


class Windows(Dataset[list[Batch] | UserError]):
    """Batches of consecutive steps, read together so that each row group of shards is read once."""

    def __init__(self, split: StoredSplit, views: tuple[int, ...], seed: int, crop_min: float) -> None:
        self.split, self.views, self.seed, self.crop_min = split, views, seed, crop_min

    def __getitem__(self, window: list[Positions]) -> list[Batch] | UserError:
        try:
            encoded = iter(self.split.encoded(np.concatenate([positions.index_n for positions in window])))
            return [self._batch(list(islice(encoded, len(positions.index_n))), positions) for positions in window]
        except UserError as error:
            return error  # raised by the consumer; DataLoader would wrap it into a traceback

    def _batch(self, encoded: list[bytes], positions: Positions) -> Batch:
        split = self.split
        pictures, bad = split.decode(encoded)
        if split.size is None:
            images = np.stack([to_array(picture) for picture in pictures])[None]
        else:
            ids_n, epoch_n = split.ids[positions.index_n], torch.from_numpy(positions.epoch_n)
            draws = [Draws(self.seed, epoch_n, ids_n, view) for view in self.views]
            images = random_crops(pictures, draws, split.size, self.crop_min)
        return Batch(torch.from_numpy(images), positions, bad)


class WindowSampler:
    """Yield the positions of all steps from ``first`` to ``steps - 1``, window by window."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.recipe, self.steps, self.first = recipe, steps, 0

    def __iter__(self) -> Iterator[list[Positions]]:
        length = WINDOW if self.recipe.stream.group_N is not None else 1
        cuts = [self.first, *range((self.first // length + 1) * length, self.steps, length), self.steps]
        for first, last in pairwise(cuts):
            yield [self.recipe.positions(step) for step in range(first, last)]


class Loader:
    """A worker's batches of a stream over a stored split, step by step.

    A request for a step other than the next restarts reading there.

    Args:
        recipe: How to make batches.
        steps: Number of steps of the run.
        most_corrupt: Largest number of unreadable images before the run fails; others replace them.
        processes: Number of processes that read ahead; ``None`` for one per thread of this process; 0 to make batches
            on request in this process.
    """

    def __init__(self, recipe: Recipe, steps: int, most_corrupt: int, processes: int | None = None) -> None:
        self.recipe, self.most_corrupt = recipe, most_corrupt
        self.processes = torch.get_num_threads() if processes is None else processes
        self.next = -1
        self.corrupt: dict[str, None] = {}
        self._sampler = WindowSampler(recipe, steps)
        self._loader: DataLoader[list[Batch] | UserError] | None = None
        self._batches: Iterator[Batch] = iter(())

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, uint8, ``(P, n, A, S, S)``, their indices in the split and their epochs, ``(n,)``.

        P is 1 if images are not cropped. Another image of the batch replaces an unreadable one; too many are a
        :class:`UserError`.
        """
        if step != self.next:
            self._sampler.first, self.next = step, step
            self._batches = self._read()
        batch = next(self._batches)
        self.next += 1
        return self._replace_bad(batch)

    def _read(self) -> Iterator[Batch]:
        if self._loader is None:
            self._loader = self._open()
        for window in self._loader:
            if isinstance(window, UserError):
                raise window
            yield from window

    def _open(self) -> DataLoader[list[Batch] | UserError]:
        dataset = Windows(self.recipe.split, self.recipe.views, self.recipe.seed, self.recipe.crop_min)
        context, ahead = None, None
        if self.processes:
            # Not fork: a copy of this process would inherit locks of the threads of Gloo, Arrow and Ray.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            ahead = 2 if self.recipe.stream.group_N is None else 1  # a window of shards has several batches
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=self._sampler,
            num_workers=self.processes,
            multiprocessing_context=context,
            persistent_workers=self.processes > 0,
            prefetch_factor=ahead,
        )

    def _replace_bad(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        images = batch.images_PnAHW
        index_n, epoch_n = (torch.from_numpy(np.array(x)) for x in (batch.positions.index_n, batch.positions.epoch_n))
        if batch.bad:
            bad = np.array(batch.bad)
            good = np.setdiff1d(np.arange(len(index_n)), bad)
            self._count_corrupt(index_n[bad], none_left=not len(good))
            instead = torch.from_numpy(good[np.searchsorted(good, bad) % len(good)])
            images[:, bad], index_n[bad], epoch_n[bad] = images[:, instead], index_n[instead], epoch_n[instead]
        return images, index_n, epoch_n

    def _count_corrupt(self, index_n: Tensor, *, none_left: bool) -> None:
        split = self.recipe.split
        for place in split.places[index_n.numpy()].tolist():
            name = split.source.label(place)
            if name not in self.corrupt:
                self.corrupt[name] = None
                log.warning("%s cannot be read; the next image of its batch replaces it", name)
        if len(self.corrupt) > self.most_corrupt or none_left:
            raise UserError(
                f"{len(self.corrupt)} images cannot be read: {', '.join(self.corrupt)}. Replace them, or allow more "
                f"with EMAN_MOST_CORRUPT={10 * self.most_corrupt}."
            )

    def close(self) -> None:
        """Stop reading, and end the processes."""
        self._batches, self._loader, self.next = iter(()), None, -1
