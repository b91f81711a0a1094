r"""Image retrieval on frozen features (Section 5.2, Table 4): test images query the training images.

For a query q, the T = 1,000 most similar database images are ranked. rel(r) is 1 if the image at rank r has the
query's class, H is the number of such hits, R the number of database images of that class. With precision
:math:`P(r) = \frac{1}{r} \sum_{s \le r} rel(s)`,

.. math:: AP(q) = \frac{1}{H} \sum_{r \le T} P(r)\,rel(r), \qquad recall(q) = \frac{H}{R}

and AP is 0 without hits; both are averaged over queries. The paper must divide by H, as the hashing literature does:
its recall of 18.5 % (MoCo) means 237 of 1,281 images in 1,000 ranks, so dividing by min(R, T) would bound mAP by
23.7 %, but it reports 32.4 %.

Shapes: N database features, M queries, D features, T ranks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from eman.evaluation.compute.knn import cosines
from eman.evaluation.protocols.protocol import EvalOutcome, Measured
from eman.evaluation.protocols.retrieval import RetrievalSpec
from eman.evaluation.trained import Trained

#: Queries compared with the database at once; bounds memory to CHUNK x N similarities.
CHUNK = 512


def evaluate(specs: Sequence[RetrievalSpec], trained: Trained, _seed: int) -> list[EvalOutcome]:
    """Return the outcome of each specification; see :func:`map_and_recall`."""
    f = trained.features
    return [
        Measured(map_and_recall(f.train_ND, f.train_labels_N, f.test_ND, f.test_labels_N, spec.top)) for spec in specs
    ]


def map_and_recall(
    bank_ND: Tensor, labels_N: Tensor, queries_MD: Tensor, query_labels_M: Tensor, top: int = 1000
) -> dict[str, float]:
    """Retrieve by cosine similarity.

    Args:
        bank_ND: Features of the database.
        labels_N: int64, classes of the database.
        queries_MD: Features of the queries.
        query_labels_M: int64, classes of the queries; a class without database images has recall 0.
        top: T; at most the size of the database is used.

    Returns:
        ``retrieval/map`` and ``retrieval/recall`` in percent.
    """
    top = min(top, len(bank_ND))
    classes = 1 + int(max(labels_N.max(), query_labels_M.max()))
    relevant_K = torch.bincount(labels_N, minlength=classes)
    rank_T = torch.arange(1, top + 1, device=bank_ND.device)
    precision = recall = 0.0
    for cosine_MN, labels in zip(cosines(bank_ND, queries_MD, CHUNK), query_labels_M.split(CHUNK), strict=True):
        ranked = cosine_MN.topk(top, dim=1).indices
        hit_MT = labels_N[ranked] == labels.unsqueeze(1)
        hits_M = hit_MT.sum(1)
        precision_MT = hit_MT.cumsum(1) / rank_T
        precision += float(((precision_MT * hit_MT).sum(1) / hits_M.clamp(min=1)).double().sum())
        recall += float((hits_M / relevant_K[labels].clamp(min=1)).double().sum())
    return {
        "retrieval/map": 100 * precision / len(queries_MD),
        "retrieval/recall": 100 * recall / len(queries_MD),
    }
