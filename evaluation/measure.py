"""Measure a training: during it, to monitor it, and at its end, for the tables.

Measuring does not change the training: the monitor restores modes, and final measurements use copies.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.compute.labelled import top_accuracy
from eman.evaluation.features import Features, Splits
from eman.evaluation.headline import CLASSIFIER, NEIGHBOURS
from eman.platform import checkpoint
from eman.trainers.data.splits import AnySplit
from eman.trainers.loop import Metrics
from eman.trainers.training import Training

#: Shares of the training images (bank) and the held-out images (queries) that the monitor uses (Section 5.1).
MONITOR_BANK, MONITOR_QUERIES = 0.1, 0.5


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


@dataclass(frozen=True)
class _Networks:
    """Copies of a training's networks.

    Attributes:
        student: Backbone and heads.
        teacher: The teacher network; ``None`` if there is none.
        classifies: Whether the networks output class logits.
    """

    student: nn.Sequential
    teacher: nn.Module | None
    classifies: bool

    @classmethod
    def copied(cls, training: Training) -> "_Networks":
        teacher = None if training.teacher is None else training.teacher.network
        return cls(copy.deepcopy(training.student), copy.deepcopy(teacher), training.method.classifier)

    def load(self, path: Path, key: str) -> None:
        """Load the weights of a checkpoint."""
        saved = checkpoint.load(path, key)
        self.student.load_state_dict(saved["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(saved["teacher"])

    def measure(self, splits: Splits, precision: str) -> tuple[Features, Metrics]:
        """Return the student's features, and the test accuracies of both networks."""
        f = features.compute(self.student[0], splits, precision)
        metrics = {"test/knn_top1": knn.top1(f.train_ND, f.train_labels_N, f.test_ND, f.test_labels_N)}
        if self.classifies:
            metrics |= _tops("test/", features.logits(self.student, f.test_ND, precision), f.test_labels_N)
        if self.classifies and self.teacher is not None:
            test = splits.dataset.test
            logits_NK = features.outputs(self.teacher, test, splits.dataset, precision)
            metrics |= _tops("test/teacher_", logits_NK, test.labels)
        return f, metrics


def final(training: Training, folder: Path, best_epoch: int) -> Metrics:
    """Return the test accuracies of the networks of the last and the best epoch, in percent.

    Store the student's features of both epochs in ``folder`` for later evaluations.

    Raises:
        RunFailed: The features are not finite.
    """
    key, precision = training.spec.key, training.spec.network.precision
    splits = Splits(training.dataset, training.train, training.held_out)
    networks = _Networks.copied(training)
    path_last, path_best = (features.path(folder, "student", selection) for selection in ("last", "best"))
    features_last, last = networks.measure(splits, precision)
    features.store(features_last, path_last, key)
    if best_epoch == training.spec.optim.epochs:
        best = last
        path_best.unlink(missing_ok=True)
        path_best.hardlink_to(path_last)
    else:
        networks.load(folder / "best.pt", key)
        features_best, best = networks.measure(splits, precision)
        features.store(features_best, path_best, key)
    return last | {f"{name}_best": value for name, value in best.items()}


def _tops(name: str, logits_NK: Tensor, labels_N: Tensor) -> Metrics:
    return {f"{name}top{top}": float(top_accuracy(logits_NK.unsqueeze(0), labels_N, top)[0]) for top in (1, 5)}


def _share(split: AnySplit, share: float) -> AnySplit:
    count = max(round(share * len(split)), 100)
    return split if count >= len(split) else split.take(torch.arange(len(split))[:: len(split) // count][:count])
