"""Frozen features: the backbone's output in evaluation mode, computed once a network and kept by the run's key.

Shapes: N images, D features, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eman.platform import checkpoint
from eman.platform.errors import RunFailed
from eman.trainers.data.names import identity
from eman.trainers.data.splits import AnySplit, DataSet
from eman.trainers.precision import autocast
from eman.trainers.views import transforms

#: Images in one forward pass: activations that fit a core's cache. It changes no result.
CHUNK = 256


@contextmanager
def evaluating(network: nn.Module, precision: str) -> Iterator[torch.device]:
    """Evaluation mode, without gradient, at a run's precision; the modes are restored. Gives the network's device."""
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
    """A network's output in evaluation mode for a whole split, float32, ``(N, D)``."""
    dtype = next(network.parameters()).dtype
    with evaluating(network, precision) as device:
        parts = []
        for images in split.batches(CHUNK):
            x_NAHW = transforms.normalize(images.to(device).float() / 255, dataset.mean, dataset.std)
            parts.append(network(x_NAHW.to(dtype)).float().cpu())
        return torch.cat(parts)


def logits(classifier: nn.Sequential, features_ND: Tensor, precision: str) -> Tensor:
    """What a classifier makes of its own backbone's features, float32, ``(N, K)``: no second pass over the images.

    Args:
        classifier: ``backbone`` and what follows it.
        features_ND: The backbone's output, as :func:`outputs` gives it.
        precision: The run's.
    """
    with evaluating(classifier, precision) as device:
        dtype = next(classifier.parameters()).dtype
        result: Tensor = classifier[1:](features_ND.to(device, dtype)).float().cpu()
        return result


@dataclass(frozen=True)
class Splits:
    """What a run is evaluated on: its training images, those put aside (the test images where there are none), and its
    data set with the test images.
    """

    dataset: DataSet
    train: AnySplit
    held_out: AnySplit


@dataclass(frozen=True)
class Features:
    """Features and labels of a run's splits. ``held_out`` is the test split where the run puts nothing aside."""

    train_ND: Tensor
    train_labels_N: Tensor
    held_out_ND: Tensor
    held_out_labels_N: Tensor
    test_ND: Tensor
    test_labels_N: Tensor


def compute(backbone: nn.Module, splits: Splits, precision: str) -> Features:
    """Features of all splits.

    Raises:
        RunFailed: They are not finite.
    """
    parts = [outputs(backbone, split, splits.dataset, precision) for split in (splits.train, splits.held_out)]
    same = splits.held_out is splits.dataset.test
    parts.append(parts[1] if same else outputs(backbone, splits.dataset.test, splits.dataset, precision))
    if not all(torch.isfinite(part).all() for part in parts):
        raise RunFailed("collapsed: the features are not finite")
    labels = (split.labels for split in (splits.train, splits.held_out, splits.dataset.test))
    return Features(*(tensor for pair in zip(parts, labels, strict=True) for tensor in pair))


def spread(features_ND: Tensor) -> float:
    """How far features lie from their mean, as a share of how far they lie from 0: 0 when all images give the same."""
    x = features_ND.double()
    return float((x - x.mean(0)).square().mean().sqrt() / x.square().mean().sqrt().clamp(min=1e-30))


def path(folder: Path, network: str, selection: str, dataset: str | None = None) -> Path:
    """Where a run keeps the features of a network and a selection, on another data set than its own if one is named."""
    return folder / f"features-{network}-{selection}{f'-{identity(dataset)}' if dataset else ''}.pt"


def store(features: Features, where: Path, key: str) -> None:
    """Writes features for later evaluations."""
    checkpoint.save(where, dict(features.__dict__), key)


def read(where: Path, key: str) -> Features:
    """Reads what :func:`store` wrote; raises :class:`~eman.platform.errors.UserError` if it is missing or damaged."""
    content = checkpoint.load(where, key, fields=Features.__dataclass_fields__)
    return Features(**{name: content[name] for name in Features.__dataclass_fields__})
