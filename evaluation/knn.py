"""k-nearest-neighbour classification on frozen features (Section 5: k = 20).

Shapes: N bank features, M queries, D features, k neighbours, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.platform.errors import UserError

#: Queries compared with the bank at once: memory is CHUNK x N similarities, whatever M is.
CHUNK = 1024


def predict(
    bank_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, k: int = 20, temperature: float | None = None
) -> Tensor:
    """Classes by a vote of the ``k`` nearest bank features; a tie goes to the smallest class.

    Features are scaled to length 1, where the cosine and the Euclidean distance give the same neighbours.

    Args:
        bank_ND: Features of the bank.
        labels_N: Their classes.
        queries_MD: What is to be classified.
        k: Neighbours that vote.
        temperature: ``None``: one vote each (the paper's); a number: a neighbour's vote weighs ``exp(cosine /
            temperature)``, as instance discrimination and its successors do (k = 200, 0.07 or 0.1).

    Returns:
        int64, ``(M,)``.

    Raises:
        UserError: ``k`` is larger than the bank, or the temperature is not positive.
    """
    _check(k, bank_ND)
    if temperature is not None and temperature <= 0:
        raise UserError(f"temperature is {temperature}; it must be greater than 0.")
    bank_DN = F.normalize(bank_ND, dim=1).T.contiguous()
    classes = int(labels_N.max()) + 1
    parts = []
    for queries in F.normalize(queries_MD, dim=1).split(CHUNK):
        nearest = (queries @ bank_DN).topk(k, dim=1, sorted=False)
        # The largest weight is 1: a vote's winner does not change, and small temperatures do not overflow.
        weight_Mk = (
            torch.ones_like(nearest.values)
            if temperature is None
            else torch.exp((nearest.values - nearest.values.amax(1, keepdim=True)) / temperature)
        )
        votes_MK = weight_Mk.new_zeros(len(queries), classes).scatter_add_(1, labels_N[nearest.indices], weight_Mk)
        parts.append(votes_MK.argmax(1))
    return torch.cat(parts)


def neighbours(bank_ND: Tensor, queries_MD: Tensor, k: int = 20) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest bank features of each query, the nearest first.

    Returns:
        Cosines, and places in the bank, both ``(M, k)``.

    Raises:
        UserError: ``k`` is larger than the bank.
    """
    _check(k, bank_ND)
    nearest = (F.normalize(queries_MD, dim=1) @ F.normalize(bank_ND, dim=1).T).topk(k, dim=1)
    return nearest.values, nearest.indices


def _check(k: int, bank_ND: Tensor) -> None:
    if k > len(bank_ND):
        raise UserError(f"k is {k}, and there are {len(bank_ND)} features to choose neighbours from; give a smaller k.")


def top1(bank_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, query_labels_M: Tensor, k: int = 20) -> float:
    """Accuracy of :func:`predict` in percent."""
    return percent(predict(bank_ND, labels_N, queries_MD, k), query_labels_M)


def percent(predicted_M: Tensor, labels_M: Tensor) -> float:
    """Share of right predictions in percent."""
    return 100 * float((predicted_M == labels_M).double().mean())
