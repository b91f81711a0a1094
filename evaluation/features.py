"""Frozen features: the backbone's output in evaluation mode, computed once per network and stored with the run.

Shapes: N images, D features, K classes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from eman.platform import checkpoint
from eman.platform.errors import RunFailed
from eman.platform.storage import Place, StorageError
from eman.trainers.data.names import identity
from eman.trainers.data.splits import AnySplit, DataSet
from eman.trainers.precision import autocast
from eman.trainers.views import transforms

#: Images per forward pass, so that activations fit a core's cache. It does not change results.
CHUNK = 256

log = logging.getLogger("eman")


@contextmanager
def evaluating(network: nn.Module, precision: str) -> Iterator[torch.device]:
    """Set evaluation mode without gradient, at a run's precision, and restore the modes; yield the network's device."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), autocast(device, precision):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(network: nn.Module, split: AnySplit, dataset: DataSet, precision: str) -> Tensor:
    """Return a network's output in evaluation mode for a whole split: float32, ``(N, D)``, on the CPU."""
    dtype = next(network.parameters()).dtype
    with evaluating(network, precision) as device:
        parts = []
        for images in split.batches(CHUNK):
            x_NAHW = transforms.normalize(images.to(device).float() / 255, dataset.mean, dataset.std)
            parts.append(network(x_NAHW.to(dtype)).float().cpu())
        return torch.cat(parts)


def logits(classifier: nn.Sequential, features_ND: Tensor, precision: str) -> Tensor:
    """Return the logits of a backbone's heads for its features: float32, ``(N, K)``, on the CPU.

    ``classifier`` is the backbone followed by the heads.
    """
    with evaluating(classifier, precision) as device:
        dtype = next(classifier.parameters()).dtype
        result: Tensor = classifier[1:](features_ND.to(device, dtype)).float().cpu()
        return result


@dataclass(frozen=True)
class Splits:
    """The images to evaluate a run on: a data set, the run's training images, and the held-out images; without any, the
    test images.
    """

    dataset: DataSet
    train: AnySplit
    held_out: AnySplit


@dataclass(frozen=True)
class Features:
    """Features, float32, and labels of a run's splits; ``held_out`` is the test split if the run holds out none."""

    train_ND: Tensor
    train_labels_N: Tensor
    held_out_ND: Tensor
    held_out_labels_N: Tensor
    test_ND: Tensor
    test_labels_N: Tensor


def compute(backbone: nn.Module, splits: Splits, precision: str) -> Features:
    """Compute the features of all splits; raise :class:`RunFailed` if they are not finite."""
    parts = [outputs(backbone, split, splits.dataset, precision) for split in (splits.train, splits.held_out)]
    same = splits.held_out is splits.dataset.test
    parts.append(parts[1] if same else outputs(backbone, splits.dataset.test, splits.dataset, precision))
    if not all(torch.isfinite(part).all() for part in parts):
        raise RunFailed("collapsed: the features are not finite")
    labels = (split.labels for split in (splits.train, splits.held_out, splits.dataset.test))
    return Features(*(tensor for pair in zip(parts, labels, strict=True) for tensor in pair))


def spread(features_ND: Tensor) -> float:
    """Return the RMS distance of features from their mean, relative to that from 0; 0 if all features are equal."""
    x = features_ND.double()
    return float((x - x.mean(0)).square().mean().sqrt() / x.square().mean().sqrt().clamp(min=1e-30))


def path(folder: Place, network: str, selection: str, dataset: str | None = None) -> Place:
    """Return the file of a network's features; ``dataset`` is ``None`` for the run's own data set."""
    return folder / f"features-{network}-{selection}{f'-{identity(dataset)}' if dataset else ''}.pt"


def store(features: Features, where: Place, key: str, *, copy: str = "") -> None:
    """Store features, also under the name ``copy``.

    If object storage does not answer, log a warning; evaluations that need the features compute them again.
    """
    where = replace(where, patience=where.patience if where.local else 0.0)
    try:
        checkpoint.save(where, dict(features.__dict__), key)
        if copy:
            where.copy(copy)
    except StorageError as error:
        if where.local:
            raise
        log.warning("features were not stored: %s", error)


def read(where: Place, key: str) -> Features:
    """Read features; raise :class:`UserError` if the file is missing, damaged, or another run's."""
    content = checkpoint.load(where, key, fields=Features.__dataclass_fields__)
    return Features(**{name: content[name] for name in Features.__dataclass_fields__})
