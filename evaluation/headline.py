"""The metric that monitors a training and selects its best epoch, measured on held-out images."""

from typing import Any

from eman.trainers.methods.method import Method

#: Shares of the training images (bank) and the held-out images (queries) that the monitor uses (Section 5.1).
MONITOR_BANK, MONITOR_QUERIES = 0.1, 0.5

CLASSIFIER, NEIGHBOURS = "accuracy/top1", "knn/top1"


def headline(method: Method[Any]) -> str:
    """Return the name of the first metric of :func:`eman.evaluation.measure.monitor`."""
    return CLASSIFIER if method.classifier else NEIGHBOURS
