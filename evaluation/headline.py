"""The metric by which a training is watched and its best epoch chosen; always measured on held-out images."""

from typing import Any

from eman.trainers.methods.method import Method

CLASSIFIER, NEIGHBOURS = "accuracy/top1", "knn/top1"


def headline(method: Method[Any]) -> str:
    """Return the metric that :func:`eman.evaluation.measure.monitor` puts first."""
    return CLASSIFIER if method.classifier else NEIGHBOURS
