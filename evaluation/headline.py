"""The metric that monitors a training and selects its best epoch, measured on held-out images."""

from typing import Any

from eman.trainers.methods.method import Method

CLASSIFIER, NEIGHBOURS = "accuracy/top1", "knn/top1"


def headline(method: Method[Any]) -> str:
    """Return the name of the first metric of :func:`eman.evaluation.measure.monitor`."""
    return CLASSIFIER if method.classifier else NEIGHBOURS
