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
from eman.platform.errors import RunFailed, UserError
from eman.platform.spec import RunSpec
from eman.trainers import augment, data
from eman.trainers.training import Training

#: Images in one forward pass: activations that fit a core's cache. It changes no result.
CHUNK = 256


@contextmanager
def evaluating(network: nn.Module, precision: str) -> Iterator[torch.device]:
    """Evaluation mode, without gradient, at a run's precision; the modes are restored. Gives the network's device."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield device
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(network: nn.Module, split: data.Split, dataset: data.DataSet, precision: str) -> Tensor:
    """A network's output in evaluation mode for a whole split, float32, ``(N, D)``."""
    dtype = next(network.parameters()).dtype
    with evaluating(network, precision) as device:
        parts = []
        for images in split.images.split(CHUNK):
            x_NAHW = augment.normalize(images.to(device).float() / 255, dataset.mean, dataset.std)
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


def available(folder: Path, network: str, selection: str) -> bool:
    """Whether :func:`of_run` can give a run's features."""
    return path(folder, network, selection).exists() or (folder / f"{selection}.pt").exists()


def of_run(folder: Path, run: str, network: str = "student", selection: str = "last") -> Features:
    """A finished run's features: those that are kept, else computed from its networks, and kept.

    Raises:
        UserError: The run has no such network, or what is kept of it is damaged.
        RunFailed: The features are not finite.
    """
    where = path(folder, network, selection)
    if where.exists():
        return read(where, run)
    saved = checkpoint.load(folder / f"{selection}.pt", run)
    if saved[network] is None:
        raise UserError(f"run {run} has no {network} network of its own; evaluate its student.")
    training = Training(RunSpec.from_fields(saved["spec"]))
    module = training.student if network == "student" else training.teacher and training.teacher.network
    assert isinstance(module, nn.Module)
    module.load_state_dict(saved[network])
    found = of_training(training, network)
    store(found, where, run)
    return found
