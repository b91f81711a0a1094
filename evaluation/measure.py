"""What is measured of a training: during it, to watch it, and at its end, for the tables."""

from pathlib import Path

import torch
from torch import nn

from eman.evaluation import features, knn
from eman.platform import checkpoint
from eman.trainers import data
from eman.trainers.loop import Metrics
from eman.trainers.training import Training

#: Shares of the training images (bank) and of the held-out ones (queries) that the monitor uses (Section 5.1).
MONITOR_BANK, MONITOR_QUERIES = 0.1, 0.5


def monitor(training: Training) -> Metrics:
    """Accuracy of the student on the held-out images, in percent: its classifier's where it has one, and kNN's.

    The first value chooses the best epoch.
    """
    spec, dataset = training.spec, training.dataset
    bank, queries = _share(training.train, MONITOR_BANK), _share(training.held_out, MONITOR_QUERIES)
    found: Metrics = {}
    if training.method.classifier:
        found["accuracy/top1"] = _accuracy(training.student, training, queries)
    backbone = training.student[0]
    bank_ND = features.outputs(backbone, bank, dataset, spec.precision)
    queries_MD = features.outputs(backbone, queries, dataset, spec.precision)
    found["knn/top1"] = knn.top1(bank_ND, bank.labels, queries_MD, queries.labels)
    return found


def final(training: Training, folder: Path, best_epoch: int) -> Metrics:
    """Test accuracies of the last and of the best epoch's networks, in percent; the features of both are kept in
    ``folder`` for later evaluations.

    Raises:
        RunFailed: The features are not finite.
    """
    key, spec = training.spec.key, training.spec
    found = _of_networks(training)
    features_last = features.of_training(training)
    features.store(features_last, features.path(folder, "student", "last"), key)
    found["test/knn_top1"] = _knn(features_last)
    features_best = features_last
    if best_epoch != spec.epochs:
        training.student.load_state_dict(checkpoint.load(folder / "best.pt", key)["student"])
        features_best = features.of_training(training)
        best = _of_networks(training)
    else:
        best = dict(found)
    features.store(features_best, features.path(folder, "student", "best"), key)
    found["test/knn_top1_best"] = _knn(features_best)
    if "test/top1" in best:
        found["test/top1_best"] = best["test/top1"]
    return found


def _of_networks(training: Training) -> Metrics:
    if not training.method.classifier:
        return {}
    found = {"test/top1": _accuracy(training.student, training, training.dataset.test)}
    if training.teacher is not None and training.teacher.network is not None:
        found["test/teacher_top1"] = _accuracy(training.teacher.network, training, training.dataset.test)
    return found


def _accuracy(network: nn.Module, training: Training, split: data.Split) -> float:
    logits_NK = features.outputs(network, split, training.dataset, training.spec.precision)
    return knn.percent(logits_NK.argmax(1), split.labels)


def _knn(found: features.Features) -> float:
    return knn.top1(found.train_ND, found.train_labels_N, found.test_ND, found.test_labels_N)


def _share(split: data.Split, share: float) -> data.Split:
    count = max(round(share * len(split)), 100)
    return split if count >= len(split) else split.take(torch.arange(len(split))[:: len(split) // count][:count])
