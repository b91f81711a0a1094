"""Measure a training: during it, to monitor it, and at its end, for the tables.

Measuring does not change the training: the monitor restores modes, and final measurements use copies.
"""

import copy

import torch
from torch import Tensor, nn

from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.compute.labelled import top_accuracy
from eman.evaluation.features import Features, Splits
from eman.evaluation.headline import CLASSIFIER, MONITOR_BANK, MONITOR_QUERIES, NEIGHBOURS
from eman.platform import checkpoint
from eman.platform.storage import Place
from eman.trainers.data.splits import AnySplit
from eman.trainers.loop import Metrics
from eman.trainers.training import Training


def monitor(training: Training) -> Metrics:
    """Return the student's accuracy on held-out images in percent: that of its classifier, if any, and of kNN.

    The first value selects the best epoch.
    """
    dataset, precision = training.dataset, training.spec.network.precision
    bank, queries = _share(training.train, MONITOR_BANK), _share(training.held_out, MONITOR_QUERIES)
    backbone = training.student[0]
    bank_ND = features.outputs(backbone, bank, dataset, precision)
    queries_MD = features.outputs(backbone, queries, dataset, precision)
    metrics: Metrics = {}
    if training.method.classifier:
        logits_MK = features.logits(training.student, queries_MD, precision)
        metrics[CLASSIFIER] = knn.percent(logits_MK.argmax(1), queries.labels)
    metrics[NEIGHBOURS] = knn.top1(bank_ND, bank.labels, queries_MD, queries.labels)
    return metrics


def final(training: Training, folder: Place, best_epoch: int) -> Metrics:
    """Return the test accuracies of the networks of the last and the best epoch, in percent.

    Store the student's features of both epochs in ``folder`` for later evaluations.

    Raises:
        RunFailed: The features are not finite.
    """
    key = training.spec.key
    student, teacher = copy.deepcopy(training.student), copy.deepcopy(training.teacher_network)
    path_last, path_best = (features.path(folder, "student", selection) for selection in ("last", "best"))
    features_last, last = _measured(training, student, teacher)
    same = best_epoch == training.spec.optim.epochs
    features.store(features_last, path_last, key, copy=path_best.name if same else "")
    if same:
        best = last
    else:
        saved = checkpoint.load(folder / "best.pt", key)
        student.load_state_dict(saved["student"])
        if teacher is not None:
            teacher.load_state_dict(saved["teacher"])
        features_best, best = _measured(training, student, teacher)
        features.store(features_best, path_best, key)
    return last | {f"{name}_best": value for name, value in best.items()}


def _measured(training: Training, student: nn.Sequential, teacher: nn.Module | None) -> tuple[Features, Metrics]:
    """Return a student's features, and the test accuracies of both networks."""
    dataset, precision = training.dataset, training.spec.network.precision
    f = features.compute(student[0], Splits(dataset, training.train, training.held_out), precision)
    metrics = {"test/knn_top1": knn.top1(f.train_ND, f.train_labels_N, f.test_ND, f.test_labels_N)}
    if training.method.classifier:
        metrics |= _tops("test/", features.logits(student, f.test_ND, precision), f.test_labels_N)
        if teacher is not None:
            logits_NK = features.outputs(teacher, dataset.test, dataset, precision)
            metrics |= _tops("test/teacher_", logits_NK, dataset.test.labels)
    return f, metrics


def _tops(name: str, logits_NK: Tensor, labels_N: Tensor) -> Metrics:
    return {f"{name}top{top}": float(top_accuracy(logits_NK.unsqueeze(0), labels_N, top)[0]) for top in (1, 5)}


def _share(split: AnySplit, share: float) -> AnySplit:
    count = max(round(share * len(split)), 100)
    return split if count >= len(split) else split.take(torch.arange(len(split))[:: len(split) // count][:count])
