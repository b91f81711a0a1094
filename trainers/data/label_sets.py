"""Which samples of a data set a run uses, and which of them have labels."""

import hashlib

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.data.index_files import read_index
from eman.trainers.data.splits import AnySplit, DataSet


def indexed(name: str, file: str, split: AnySplit, workspace: Workspace) -> Tensor:
    """Return the places of the labelled samples that an index file lists; see :func:`read_index`.

    Raises:
        UserError: There is no such file or column, or it lists an image that the run does not use.
    """
    listed = read_index(name, file, workspace)
    where = {int(sample): n for n, sample in enumerate(split.ids.tolist())}
    strange = next((sample for sample in listed if sample not in where), None)
    if strange is not None:
        raise UserError(f"{file}.csv lists image {strange}, which is not among the {len(split):,} that this run uses.")
    return torch.tensor(sorted(where[sample] for sample in listed))


def stratified(labels: Tensor, count: int, seed: int, *, skip: int = 0) -> Tensor:
    """Return the places of ``count`` samples with as equal class shares as ``count`` allows, in ascending order.

    The samples of each class are put in an order that depends on the seed alone; ``skip`` leaves out those that a call
    with ``count=skip`` would take, so two calls can make disjoint sets.

    Raises:
        UserError: A class would get no sample, or has too few.
    """
    classes = int(labels.max()) + 1
    if count < classes:
        raise UserError(
            f"{count} labelled samples leave some of the {classes} classes with none; ask for {classes} or "
            f"more (a larger label_fraction)."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    # Samples of all classes in turn: class 0's first, class 1's first, ..., class 0's second, ...
    shuffled = labels[order]
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in range(classes):
        mask = shuffled == label
        turn[mask] = torch.arange(int(mask.sum()))
    in_turn = order[torch.argsort(turn * classes + shuffled, stable=True)]
    if skip + count > len(labels):
        raise UserError(f"{skip + count:,} samples were asked for, and there are {len(labels):,}.")
    return in_turn[skip : skip + count].sort().values


def parts(dataset: DataSet, images: int | None, held_out: int) -> tuple[AnySplit, AnySplit]:
    """Return the training images that a run uses, and those put aside for choices. Both are the same for every seed.

    Args:
        dataset: The whole set.
        images: Size of the first part; ``None``: all that is not put aside.
        held_out: Size of the second part; with 0 it is the test split, as in the paper, which chose on validation.
    """
    total = len(dataset.train)
    images = total - held_out if images is None else images
    if images + held_out > total:
        raise UserError(
            f"images={images} and held_out={held_out} add up to more than the {total:,} training images of "
            f"{dataset.name}."
        )
    train = dataset.train if images == total else dataset.train.take(stratified(dataset.train.labels, images, 0))
    if not held_out:
        return train, dataset.test
    return train, dataset.train.take(stratified(dataset.train.labels, held_out, 0, skip=images))


def label_set(labels: Tensor, fraction: float, number: int) -> Tensor:
    """Return the places of the labelled samples: a stratified share, drawn by the label set's number (Section 5.2)."""
    if fraction == 1:
        return torch.arange(len(labels))
    return stratified(labels, round(fraction * len(labels)), 1_000 + number)


def shots(labels: Tensor, count: int, number: int) -> Tensor:
    """Return the places of ``count`` samples a class, drawn by the set's number (Section 5.2, low-shot classification).

    Raises:
        UserError: A class has fewer.
    """
    sizes = torch.bincount(labels)
    if int(sizes.min()) < count:
        raise UserError(
            f"{count} samples a class were asked for, and class {int(sizes.argmin())} has {int(sizes.min())}; give "
            f"fewer."
        )
    return stratified(labels, count * len(sizes), 2_000 + number)


def fingerprint(index: Tensor) -> str:
    """Return a short hash of a label set, for the record."""
    return hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:12]
