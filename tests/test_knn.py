"""kNN against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from eman.evaluation.compute import knn
from eman.platform.errors import UserError


@pytest.mark.parametrize("k", [1, 20])
def test_predictions_are_scikit_learns(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", 37)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (400,), generator=generator)
    bank = torch.randn(400, 8, generator=generator) + torch.nn.functional.one_hot(labels, 8)
    queries = torch.randn(150, 8, generator=generator)
    unit = torch.nn.functional.normalize
    theirs = KNeighborsClassifier(k, metric="euclidean", algorithm="brute").fit(unit(bank).numpy(), labels.numpy())
    assert np.array_equal(knn.predict(bank, labels, queries, k).numpy(), theirs.predict(unit(queries).numpy()))


@pytest.mark.parametrize("columns", [80, 5000, 5120, 6399])
@pytest.mark.parametrize("tied", [False, True])
def test_the_largest_of_a_row_are_topks(columns: int, tied: bool) -> None:
    x = torch.randn(30, columns, generator=torch.Generator().manual_seed(2))
    x = (3 * x).round() if tied else x
    x[3, 70] = float("inf")
    values, places = knn.largest(x, 20)
    expected = x.topk(20, dim=1)
    assert torch.equal(values.sort(1, descending=True).values, expected.values)
    assert torch.equal(x.gather(1, places), values)
    assert all(len(set(row)) == 20 for row in places.tolist())
    if not tied:
        assert torch.equal(places.sort(1).values, expected.indices.sort(1).values)


@pytest.mark.parametrize("temperature", [0.07, 0.001])
def test_a_weighted_vote_is_scikit_learns(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (300,), generator=generator)
    bank = torch.randn(300, 6, generator=generator) + torch.nn.functional.one_hot(labels, 6)
    queries = torch.randn(100, 6, generator=generator)
    unit = torch.nn.functional.normalize

    def weights(distance: np.ndarray) -> np.ndarray:  # of unit vectors: cosine = 1 - d^2 / 2
        cosine = 1 - distance**2 / 2
        return np.exp((cosine - cosine.max(1, keepdims=True)) / temperature)

    theirs = KNeighborsClassifier(50, weights=weights, algorithm="brute")
    theirs.fit(unit(bank).double().numpy(), labels.numpy())
    ours = knn.predict(bank, labels, queries, 50, temperature).numpy()
    assert np.array_equal(ours, theirs.predict(unit(queries).double().numpy()))
    with pytest.raises(UserError, match="temperature is -1"):
        knn.predict(bank, labels, queries, 50, -1.0)


def test_a_tie_goes_to_the_smallest_class() -> None:
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.01]])
    assert knn.predict(bank, torch.tensor([3, 1]), torch.tensor([[1.0, 0.0]]), k=2).tolist() == [1]


def test_k_larger_than_the_bank_is_refused() -> None:
    with pytest.raises(UserError, match="k is 20, and there are 5"):
        knn.predict(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64), torch.randn(1, 2))
