"""Subsets of a data set: the samples that a run uses, and those whose labels it uses."""

import hashlib

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.data.catalog import check_counts, read_index
from eman.trainers.data.splits import AnySplit, DataSet


def indexed(name: str, file: str, split: AnySplit, workspace: Workspace) -> Tensor:
    """Return the indices in ``split`` of the samples that an index file lists, ascending; see ``read_index``."""
    listed = read_index(name, file, workspace)
    where = {int(sample): n for n, sample in enumerate(split.ids.tolist())}
    unknown = next((sample for sample in listed if sample not in where), None)
    if unknown is not None:
        raise UserError(f"{file}.csv lists image {unknown}, which is not among the {len(split):,} that this run uses.")
    return torch.tensor(sorted(where[sample] for sample in listed))


def stratified(labels: Tensor, count: int, seed: int, *, skip: int = 0) -> Tensor:
    """Return the indices of ``count`` random samples with equal class counts, up to rounding; ascending.

    Args:
        labels: int64, ``(N,)``.
        count: Number of samples; :class:`UserError` if there are fewer, or a class would get none.
        seed: Decides the order in which the samples of each class are taken.
        skip: Leave out the samples that ``count=skip`` would return, so that two calls give disjoint sets.
    """
    classes = int(labels.max()) + 1
    if count < classes:
        raise UserError(
            f"{count} labelled samples leave some of the {classes} classes with none; ask for {classes} or "
            f"more (a larger label_fraction)."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    # Take classes in turn: the first sample of class 0, of class 1, ..., the second of class 0, ...
    shuffled = labels[order]
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in range(classes):
        mask = shuffled == label
        turn[mask] = torch.arange(int(mask.sum()))
    in_turn = order[torch.argsort(turn * classes + shuffled, stable=True)]
    if skip + count > len(labels):
        raise UserError(f"{skip + count:,} samples were asked for, and there are {len(labels):,}; ask for fewer.")
    return in_turn[skip : skip + count].sort().values


def parts(dataset: DataSet, images: int | None, held_out: int) -> tuple[AnySplit, AnySplit]:
    """Return the training images that a run uses, and the held-out images. Both are the same for every seed.

    Without ``held_out`` images, the test images take their place, as in the paper. No ``images`` stand for all others.
    """
    total = len(dataset.train)
    check_counts(dataset.name, total, len(dataset.classes), images, held_out)
    images = total - held_out if images is None else images
    train = dataset.train if images == total else dataset.train.take(stratified(dataset.train.labels, images, 0))
    if not held_out:
        return train, dataset.test
    return train, dataset.train.take(stratified(dataset.train.labels, held_out, 0, skip=images))


def label_set(labels: Tensor, fraction: float, number: int) -> Tensor:
    """Return the indices of a class-balanced fraction of the samples, drawn with the set's number (Section 5.2)."""
    if fraction == 1:
        return torch.arange(len(labels))
    return stratified(labels, round(fraction * len(labels)), 1_000 + number)


def shots(labels: Tensor, count: int, number: int) -> Tensor:
    """Return the indices of ``count`` samples per class, drawn with the set's number (Section 5.2, low-shot)."""
    sizes = torch.bincount(labels)
    if int(sizes.min()) < count:
        raise UserError(
            f"{count} samples per class were asked for, and class {int(sizes.argmin())} has {int(sizes.min())}; give "
            f"fewer."
        )
    return stratified(labels, count * len(sizes), 2_000 + number)


def fingerprint(index: Tensor) -> str:
    """Return a short hash of a label set, to record with a run."""
    return hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:12]
