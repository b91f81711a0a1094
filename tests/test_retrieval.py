"""Retrieval against scikit-learn's average precision and plain loops."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from eman.evaluation.compute import retrieval


@pytest.mark.parametrize("top", [7, 40, 1000])
def test_map_and_recall_are_those_of_plain_loops(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", 9)
    generator = torch.Generator().manual_seed(0)
    labels, asked = (torch.randint(0, 4, (n,), generator=generator) for n in (60, 25))
    bank, queries = (torch.randn(n, 5, generator=generator) for n in (60, 25))
    bank += torch.nn.functional.one_hot(labels, 5)
    unit = torch.nn.functional.normalize
    similarity = (unit(queries).double() @ unit(bank).double().T).numpy()
    precisions, recalls = [], []
    for row, label in zip(similarity, asked.numpy(), strict=True):
        ranked = np.argsort(-row)[:top]
        hit = labels.numpy()[ranked] == label
        precisions.append(average_precision_score(hit, row[ranked]) if hit.any() else 0.0)
        recalls.append(hit.sum() / (labels.numpy() == label).sum())
    found = retrieval.map_and_recall(bank, labels, queries, asked, top)
    assert found["retrieval/map"] == pytest.approx(100 * np.mean(precisions), abs=1e-4)
    assert found["retrieval/recall"] == pytest.approx(100 * np.mean(recalls), abs=1e-4)


def test_perfect_features_retrieve_everything() -> None:
    labels = torch.arange(4).repeat(10)
    features = torch.nn.functional.one_hot(labels, 4).float()
    found = retrieval.map_and_recall(features, labels, features, labels, top=10)
    assert found == {"retrieval/map": pytest.approx(100), "retrieval/recall": pytest.approx(100)}


def test_a_class_that_the_database_lacks_has_no_recall() -> None:
    found = retrieval.map_and_recall(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 5]))
    assert found == {"retrieval/map": pytest.approx(50), "retrieval/recall": pytest.approx(50)}
