"""Label sets, and results averaged over them, for linear evaluation and finetuning.

Shapes: S label sets, n samples of a set, M samples of a split, K classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import EvalOutcome, Measured
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed
from eman.trainers.data import label_sets as data_label_sets

SGD_MOMENTUM = 0.9

#: Top-1 and top-5 accuracy on the test images and top-1 on the held-out images, in percent, each ``(S,)``.
Accuracies = tuple[Tensor, Tensor, Tensor]


def label_sets(trained: Trained, spec: LabelledSpec) -> Tensor:
    """Return the samples of each label set, ``(S, n)``: drawn, or those of the index files in ``label_index``.

    Raises:
        UserError: A class would get no sample, or an index file is missing.
        RunFailed: The run has collapsed.
    """
    labels_N = trained.features.train_labels_N
    if spec.label_index is None:
        return torch.stack(
            [
                data_label_sets.label_set(labels_N, spec.label_fraction, number, spec.label_sampling)
                for number in range(spec.label_sets)
            ]
        )
    splits, files = trained.splits, spec.label_index.split(",")
    name = splits.dataset.name
    return torch.stack([data_label_sets.indexed(name, file, splits.train, trained.workspace) for file in files])


def top_accuracy(logits_SMK: Tensor, labels_M: Tensor, top: int) -> Tensor:
    """Return the share of samples whose class is among the ``top`` largest logits, in percent, ``(S,)``."""
    best = logits_SMK.topk(min(top, logits_SMK.shape[-1]), dim=-1).indices
    return 100 * (best == labels_M.view(1, -1, 1)).any(2).double().mean(1)


def accuracies(test_SMK: Tensor, labels_M: Tensor, held_out_SMK: Tensor, held_out_labels_M: Tensor) -> Accuracies:
    """Return the accuracies from logits and labels of the test and the held-out images.

    Raises:
        RunFailed: The classifier diverged.
    """
    if not (torch.isfinite(test_SMK).all() and torch.isfinite(held_out_SMK).all()):
        raise RunFailed("the classifier diverged")
    top1_S, top5_S = (top_accuracy(test_SMK, labels_M, top) for top in (1, 5))
    return top1_S, top5_S, top_accuracy(held_out_SMK, held_out_labels_M, 1)


def averaged(specs: Sequence[LabelledSpec], measure: Callable[[int], Accuracies]) -> list[EvalOutcome]:
    """Return the outcome of each specification; ``measure`` returns its accuracies from its position.

    For example for linear evaluation at 10 % of the labels, these are means over label sets of ``linear/10pct_top1``
    and ``linear/10pct_top5`` on the test images and of ``linear/10pct_held_out_top1``, which selects the rate; and
    ``linear/10pct_top1_set0`` and so on for single sets. The outcome of a rate that diverges is an error.
    """
    outcomes: list[EvalOutcome] = []
    for number, spec in enumerate(specs):
        try:
            top1_S, top5_S, held_out_S = measure(number)
        except RunFailed as error:
            outcomes.append(error)
            continue
        metrics = {
            f"{spec.prefix}top1": float(top1_S.mean()),
            f"{spec.prefix}top5": float(top5_S.mean()),
            spec.held_out_metric: float(held_out_S.mean()),
            **{f"{spec.prefix}top1_set{n}": float(value) for n, value in enumerate(top1_S)},
        }
        outcomes.append(Measured(metrics, spec.held_out_metric))
    return outcomes
