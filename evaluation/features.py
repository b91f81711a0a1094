"""Frozen features: the backbone's output in evaluation mode, computed once a network and kept by the run's key.

Shapes: N images, D features, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eman.platform import checkpoint
from eman.platform.errors import RunFailed
from eman.trainers import augment, data
from eman.trainers.training import Training

#: Images in one forward pass. It bounds memory and changes no result.
CHUNK = 1024


@torch.no_grad()
def outputs(network: nn.Module, split: data.Split, dataset: data.DataSet, precision: str) -> Tensor:
    """A network's output in evaluation mode for a whole split, float32, ``(N, D)``. The network's mode is restored."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        device = next(network.parameters()).device
        parts = []
        for images in split.images.split(CHUNK):
            x_NAHW = augment.normalize(images.to(device).float() / 255, dataset.mean, dataset.std)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                parts.append(network(x_NAHW).float().cpu())
        return torch.cat(parts)
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Features:
    """Features and labels of a run's splits. ``held_out`` is the test split where the run puts nothing aside."""

    train_ND: Tensor
    train_labels_N: Tensor
    held_out_ND: Tensor
    held_out_labels_N: Tensor
    test_ND: Tensor
    test_labels_N: Tensor


def of_training(training: Training, network: str = "student") -> Features:
    """Features of the student's or the teacher's backbone.

    Raises:
        RunFailed: They are not finite.
    """
    module = training.student if network == "student" else training.teacher and training.teacher.network
    assert isinstance(module, nn.Sequential)
    backbone = module[0]
    splits = (training.train, training.held_out, training.dataset.test)
    features = [outputs(backbone, split, training.dataset, training.spec.precision) for split in splits[:2]]
    features.append(
        features[1]
        if splits[1] is splits[2]
        else outputs(backbone, splits[2], training.dataset, training.spec.precision)
    )
    if not all(torch.isfinite(part).all() for part in features):
        raise RunFailed("the features are not finite")
    return Features(*(tensor for part, split in zip(features, splits, strict=True) for tensor in (part, split.labels)))


def path(folder: Path, network: str, selection: str) -> Path:
    """Where a run keeps the features of a network and a selection."""
    return folder / f"features-{network}-{selection}.pt"


def store(features: Features, where: Path, key: str) -> None:
    """Writes features for later evaluations."""
    checkpoint.save(where, dict(features.__dict__), key)


def read(where: Path, key: str) -> Features:
    """Reads what :func:`store` wrote; raises :class:`~eman.platform.errors.UserError` if it is missing or damaged."""
    content = checkpoint.load(where, key)
    return Features(**{name: content[name] for name in Features.__dataclass_fields__})
