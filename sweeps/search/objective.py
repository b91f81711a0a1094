"""The objective of a search: a metric of training, or one measured on held-out images."""

from typing import Literal

from eman.evaluation.headline import CLASSIFIER, NEIGHBOURS, headline
from eman.platform.errors import UserError
from eman.trainers.spec.run import RunSpec

#: Metrics of quality that a training reports while it runs.
REPORTED = (CLASSIFIER, NEIGHBOURS, "train/loss", "train/feature_std")

#: Ending of the metrics of evaluations that are measured on held-out images.
_HELD_OUT = "held_out_top1"


def objective_of(name: str, run: RunSpec, *, while_training: bool) -> str:
    """Return the objective of a search among runs like this: the named metric, or the method's held-out accuracy.

    Args:
        name: A metric; empty for the method's own.
        run: One of the runs.
        while_training: Whether the search compares trainings that are not finished.

    Raises:
        UserError: The metric is measured on test images, is unknown, or comes too late.
    """
    allowed = [headline(run.entry), *(metric for metric in REPORTED if metric != headline(run.entry))]
    if not run.entry.classifier:
        allowed.remove(CLASSIFIER)
    metric = name or allowed[0]
    listed = f"give one of {', '.join(allowed)}" + ("" if while_training else f", or one that ends in {_HELD_OUT}")
    if metric not in allowed and not metric.endswith(_HELD_OUT):
        known = "is measured on test images, by which nothing is selected" if _is_test(metric) else "is not known"
        raise UserError(f"--objective {metric} {known}; {listed}.")
    if metric not in allowed and while_training:
        raise UserError(
            f"--objective {metric} is measured after the training, too late to choose or stop runs; {listed}."
        )
    if run.data.held_out == 0 and not metric.startswith("train/"):
        raise UserError(
            f"{metric} of {run.method.name} would be measured on test images, because held_out is 0; give --set "
            f"held_out=N, or --objective train/loss."
        )
    return metric


def mode_of(metric: str) -> Literal["min", "max"]:
    """Return whether smaller or larger values of an objective are better."""
    return "min" if metric.endswith("loss") else "max"


def _is_test(metric: str) -> bool:
    return metric.startswith("test/") or metric.rpartition("_")[2] in ("top1", "top5", "map")
