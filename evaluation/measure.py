"""What is measured of a training: during it, to watch it, and at its end, for the tables."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eman.evaluation import features
from eman.evaluation.compute import knn, linear
from eman.platform import checkpoint
from eman.trainers.data.splits import AnySplit
from eman.trainers.loop import Metrics
from eman.trainers.methods.method import Method
from eman.trainers.training import Training

#: Shares of the training images (bank) and of the held-out ones (queries) that the monitor uses (Section 5.1).
MONITOR_BANK, MONITOR_QUERIES = 0.1, 0.5


def monitor(training: Training) -> Metrics:
    """Accuracy of the student on the held-out images, in percent: its classifier's where it has one, and kNN's.

    The first value chooses the best epoch.
    """
    spec, dataset = training.spec, training.dataset
    bank, queries = _share(training.train, MONITOR_BANK), _share(training.held_out, MONITOR_QUERIES)
    backbone = training.student[0]
    bank_ND = features.outputs(backbone, bank, dataset, spec.network.precision)
    queries_MD = features.outputs(backbone, queries, dataset, spec.network.precision)
    found: Metrics = {}
    if training.method.classifier:
        found["accuracy/top1"] = _accuracy(training, queries_MD, queries.labels)
    found["knn/top1"] = knn.top1(bank_ND, bank.labels, queries_MD, queries.labels)
    return found


def headline(method: Method[Any]) -> str:
    """The metric that :func:`monitor` puts first: by it a run is watched, and its best epoch chosen."""
    return "accuracy/top1" if method.classifier else "knn/top1"


def final(training: Training, folder: Path, best_epoch: int) -> Metrics:
    """Test accuracies of the last and of the best epoch's networks, in percent; the student's features of both are
    kept in ``folder`` for later evaluations.

    Raises:
        RunFailed: The features are not finite.
    """
    key, spec = training.spec.key, training.spec
    splits = features.Splits(training.dataset, training.train, training.held_out)

    def measured(selection: str) -> Metrics:
        backbone = training.student[0]
        found = features.compute(backbone, splits, spec.network.precision)
        features.store(found, features.path(folder, "student", selection), key)
        return _of_student(training, found) | _of_teacher(training)

    last = measured("last")
    if best_epoch == spec.optim.epochs:
        best, path_best = last, features.path(folder, "student", "best")
        path_best.unlink(missing_ok=True)
        path_best.hardlink_to(features.path(folder, "student", "last"))
    else:
        saved = checkpoint.load(folder / "best.pt", key)
        training.student.load_state_dict(saved["student"])
        if training.teacher is not None and training.teacher.network is not None:
            training.teacher.network.load_state_dict(saved["teacher"])
        best = measured("best")
    return last | {f"{name}_best": value for name, value in best.items()}


def _of_student(training: Training, found: features.Features) -> Metrics:
    """Test accuracies of the student as it is."""
    metrics = {"test/knn_top1": knn.top1(found.train_ND, found.train_labels_N, found.test_ND, found.test_labels_N)}
    if training.method.classifier:
        logits_NK = features.logits(training.student, found.test_ND, training.spec.network.precision)
        metrics |= _tops("test/", logits_NK, found.test_labels_N)
    return metrics


def _of_teacher(training: Training) -> Metrics:
    """Test accuracies of a teacher that classifies."""
    if not training.method.classifier or training.teacher is None or training.teacher.network is None:
        return {}
    test = training.dataset.test
    logits_NK = features.outputs(training.teacher.network, test, training.dataset, training.spec.network.precision)
    return _tops("test/teacher_", logits_NK, test.labels)


def _tops(name: str, logits_NK: Tensor, labels_N: Tensor) -> Metrics:
    return {f"{name}top{top}": float(linear.top_accuracy(logits_NK.unsqueeze(0), labels_N, top)[0]) for top in (1, 5)}


def _accuracy(training: Training, features_ND: Tensor, labels_N: Tensor) -> float:
    logits_NK = features.logits(training.student, features_ND, training.spec.network.precision)
    return knn.percent(logits_NK.argmax(1), labels_N)


def _share(split: AnySplit, share: float) -> AnySplit:
    count = max(round(share * len(split)), 100)
    return split if count >= len(split) else split.take(torch.arange(len(split))[:: len(split) // count][:count])
