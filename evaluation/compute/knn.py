"""k-nearest-neighbour classification on frozen features (Section 5: k = 20).

Shapes: N bank features, M queries, D features, k neighbours, K classes.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation.protocols.knn import KnnSpec
from eman.evaluation.protocols.protocol import EvalOutcome, Measured
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError

#: Queries compared with the bank at once; bounds memory to CHUNK x N similarities.
CHUNK = 1024

#: Columns per group in :func:`largest`.
_GROUP = 64


def evaluate(specs: Sequence[KnnSpec], trained: Trained, _seed: int) -> list[EvalOutcome]:
    """Return ``knn/test_top1``, accuracy on the test images in percent, for each specification."""
    f = trained.features
    predicted = [predict(f.train_ND, f.train_labels_N, f.test_ND, spec.k, spec.temperature) for spec in specs]
    return [Measured({"knn/test_top1": percent(predicted_M, f.test_labels_N)}) for predicted_M in predicted]


def predict(
    bank_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, k: int = 20, temperature: float | None = None
) -> Tensor:
    """Classify queries by a vote of the ``k`` nearest bank features; ties go to the smallest class.

    Neighbours are those with the largest cosine similarity.

    Args:
        bank_ND: Features of the bank.
        labels_N: int64, classes of the bank.
        queries_MD: Features to classify.
        k: Number of neighbours.
        temperature: ``None`` for equal votes (the paper). Otherwise votes are weighted by ``exp(cosine /
            temperature)``, as in instance discrimination (k = 200, temperature 0.07 or 0.1).

    Returns:
        int64, ``(M,)``.

    Raises:
        UserError: ``k`` is larger than the bank, or the temperature is not positive.
    """
    _check(k, bank_ND)
    if temperature is not None and temperature <= 0:
        raise UserError(f"temperature is {temperature}; it must be greater than 0.")
    classes = int(labels_N.max()) + 1
    parts = []
    for cosine_MN in cosines(bank_ND, queries_MD, CHUNK):
        cosine_Mk, place_Mk = largest(cosine_MN, k)
        # Scale the largest weight to 1, so that small temperatures do not overflow; the winner stays the same.
        weight_Mk = (
            torch.ones_like(cosine_Mk)
            if temperature is None
            else torch.exp((cosine_Mk - cosine_Mk.amax(1, keepdim=True)) / temperature)
        )
        votes_MK = weight_Mk.new_zeros(len(cosine_MN), classes).scatter_add_(1, labels_N[place_Mk], weight_Mk)
        parts.append(votes_MK.argmax(1))
    return torch.cat(parts)


def cosines(bank_ND: Tensor, queries_MD: Tensor, chunk: int) -> Iterator[Tensor]:
    """Yield the cosine similarities of ``chunk`` queries at a time to the whole bank, ``(chunk, N)``.

    Each overwrites the last, since allocating the memory again would take as long as the product.
    """
    bank_DN = F.normalize(bank_ND, dim=1).T.contiguous()
    memory = bank_DN.new_empty(min(chunk, len(queries_MD)), len(bank_ND))
    for queries in F.normalize(queries_MD, dim=1).split(chunk):
        yield torch.mm(queries, bank_DN, out=memory[: len(queries)])


def largest(x_MN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest values of each row, unordered, and their columns, both ``(M, k)``.

    Faster than ``topk`` for long rows and small ``k``: the values are in the ``k`` groups of columns with the largest
    maxima, so only these groups are searched.
    """
    groups = x_MN.shape[1] // _GROUP
    if groups < 4 * k:
        top = x_MN.topk(k, dim=1, sorted=False)
        return top.values, top.indices
    cut, taken = groups * _GROUP, k * _GROUP
    whole_MGS = x_MN[:, :cut].unflatten(1, (groups, _GROUP))
    best_Mk = whole_MGS.amax(2).topk(k, dim=1, sorted=False).indices
    row_M1 = torch.arange(len(x_MN), device=x_MN.device).unsqueeze(1)
    top = torch.cat([whole_MGS[row_M1, best_Mk].flatten(1), x_MN[:, cut:]], 1).topk(k, dim=1, sorted=False)
    group_Mk = best_Mk.gather(1, top.indices.clamp(max=taken - 1) // _GROUP)
    in_group_Mk = top.indices < taken
    column_Mk = torch.where(in_group_Mk, group_Mk * _GROUP + top.indices % _GROUP, cut + top.indices - taken)
    return top.values, column_Mk


def neighbours(bank_ND: Tensor, queries_MD: Tensor, k: int = 20) -> tuple[Tensor, Tensor]:
    """Return cosine similarities and indices of each query's ``k`` nearest bank features, nearest first, ``(M, k)``.

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
    """Return the accuracy of :func:`predict` in percent."""
    return percent(predict(bank_ND, labels_N, queries_MD, k), query_labels_M)


def percent(predicted_M: Tensor, labels_M: Tensor) -> float:
    """Return the share of correct predictions in percent."""
    return 100 * float((predicted_M == labels_M).double().mean())
