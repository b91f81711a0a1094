"""Subsets of a data set: the samples that a run uses, and those whose labels it uses."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.data.catalog import check_counts, read_index
from eman.trainers.data.shares import proportional_counts
from eman.trainers.data.splits import AnySplit, DataSet


def indexed(name: str, file: str, split: AnySplit, workspace: Workspace) -> Tensor:
    """Return the indices in ``split`` of the samples that an index file lists, ascending; see ``read_index``."""
    listed = read_index(name, file, workspace)
    where = {int(sample): n for n, sample in enumerate(split.ids.tolist())}
    unknown = next((sample for sample in listed if sample not in where), None)
    if unknown is not None:
        raise UserError(f"{file}.csv lists image {unknown}, which is not among the {len(split):,} that this run uses.")
    return torch.tensor(sorted(where[sample] for sample in listed))


def proportional(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return the indices of ``count`` random samples, each class in proportion to its size; ascending.

    See :func:`~eman.trainers.data.shares.proportional_counts` for the rounding.

    Args:
        labels: int64, ``(N,)``.
        count: Number of samples; :class:`UserError` if there are fewer, or a class would get none.
        seed: Decides the order in which the samples of each class are taken.
    """
    _check(labels, count)
    counts_K = torch.tensor(proportional_counts(torch.bincount(labels).tolist(), count))
    order = _shuffled(labels, seed)
    return order[_turns(labels[order]) < counts_K[labels[order]]].sort().values


def balanced(labels: Tensor, count: int, seed: int, *, skip: int = 0) -> Tensor:
    """Return the indices of ``count`` random samples with equal class counts, up to rounding; ascending.

    Args:
        labels: int64, ``(N,)``.
        count: Number of samples; :class:`UserError` if there are fewer, or a class would get none.
        seed: Decides the order in which the samples of each class are taken.
        skip: Leave out the samples that ``count=skip`` would return, so that two calls give disjoint sets.
    """
    _check(labels, count, skip)
    # Take classes in turn: the first sample of class 0, of class 1, ..., the second of class 0, ...
    order = _shuffled(labels, seed)
    shuffled = labels[order]
    in_turn = order[torch.argsort(_turns(shuffled) * (int(labels.max()) + 1) + shuffled, stable=True)]
    return in_turn[skip : skip + count].sort().values


def _check(labels: Tensor, count: int, skip: int = 0) -> None:
    classes = int(labels.max()) + 1
    if count < classes:
        raise UserError(
            f"{count} labelled samples leave some of the {classes} classes with none; ask for {classes} or "
            f"more (a larger label_fraction)."
        )
    if skip + count > len(labels):
        raise UserError(f"{skip + count:,} samples were asked for, and there are {len(labels):,}; ask for fewer.")


def _shuffled(labels: Tensor, seed: int) -> Tensor:
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))


def _turns(labels: Tensor) -> Tensor:
    """Return, for each sample, the number of samples of its class before it."""
    turns = torch.empty(len(labels), dtype=torch.int64)
    for label in range(int(labels.max()) + 1):
        mask = labels == label
        turns[mask] = torch.arange(int(mask.sum()))
    return turns


#: Functions that draw a label set from labels, number of samples and seed, by the values of ``label_sampling``.
SAMPLINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"proportional": proportional, "balanced": balanced}


def parts(dataset: DataSet, images: int | None, held_out: int) -> tuple[AnySplit, AnySplit]:
    """Return the training images that a run uses, and the held-out images. Both are the same for every seed.

    Without ``held_out`` images, the test images take their place, as in the paper. No ``images`` stand for all others.
    """
    total = len(dataset.train)
    check_counts(dataset.name, total, len(dataset.classes), images, held_out)
    images = total - held_out if images is None else images
    train = dataset.train if images == total else dataset.train.take(balanced(dataset.train.labels, images, 0))
    if not held_out:
        return train, dataset.test
    return train, dataset.train.take(balanced(dataset.train.labels, held_out, 0, skip=images))


def label_set(labels: Tensor, fraction: float, number: int, sampling: str = "proportional") -> Tensor:
    """Return the indices of a fraction of the samples, drawn with the set's number (Section 5.2).

    ``sampling`` is a key of :data:`SAMPLINGS`: each class in proportion to its size (stratified, as in the index files
    of the official code), or equally many of each.
    """
    if fraction == 1:
        return torch.arange(len(labels))
    return SAMPLINGS[sampling](labels, round(fraction * len(labels)), 1_000 + number)


def shots(labels: Tensor, count: int, number: int) -> Tensor:
    """Return the indices of ``count`` samples per class, drawn with the set's number (Section 5.2, low-shot)."""
    sizes = torch.bincount(labels)
    if int(sizes.min()) < count:
        raise UserError(
            f"{count} samples per class were asked for, and class {int(sizes.argmin())} has {int(sizes.min())}; give "
            f"fewer."
        )
    return balanced(labels, count * len(sizes), 2_000 + number)


def fingerprint(index: Tensor) -> str:
    """Return a short hash of a label set, to record with a run."""
    return hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:12]
