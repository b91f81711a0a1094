"""Linear evaluation against torch.optim.SGD and scikit-learn."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from eman.evaluation import linear
from eman.evaluation.features import Features
from eman.evaluation.protocols import make_eval
from eman.platform.errors import RunFailed
from eman.trainers import data
from eman.trainers.data import epoch_order


def problem(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return torch.randn(n, 6, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 6), labels


def test_training_is_torchs_sgd_for_every_label_set() -> None:
    features, labels = problem()
    spec = make_eval("linear", "x", lr=0.3, epochs=10, batch=32, label_sets=2)
    sets = torch.stack([data.stratified(labels, 100, seed) for seed in range(2)])
    weight, bias = linear.train(features, labels, sets, 4, spec)
    for number in range(2):
        layer = nn.Linear(6, 4)
        start = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)) * 0.01
        with torch.no_grad():
            layer.weight.copy_(start[0].T)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=spec.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8], 0.1)
        x, y = features[sets[number]], labels[sets[number]]
        for epoch in range(10):
            for batch in epoch_order(100, 0, 0, epoch).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
                optimizer.step()
            schedule.step()
        torch.testing.assert_close(weight[number], layer.weight.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bias[number, 0], layer.bias, atol=1e-4, rtol=1e-4)


def test_a_long_training_comes_near_scikit_learns_optimum() -> None:
    features, labels = problem(1000)
    spec = make_eval("linear", "x", lr=0.3, epochs=60, label_sets=1, label_fraction=0.5)
    first, rest = (features[:600], labels[:600]), (features[600:], labels[600:])
    result = linear.evaluate(spec, Features(*first, *rest, *rest))
    chosen = data.label_set(labels[:600], 0.5, 0)
    optimum = LogisticRegression(C=1e4, max_iter=500).fit(features[chosen].numpy(), labels[chosen].numpy())
    theirs = 100 * optimum.score(features[600:].numpy(), labels[600:].numpy())
    assert result["linear/top1"] == pytest.approx(theirs, abs=2)
    assert result["linear/top1"] == result["linear/held_out_top1"] == result["linear/top1_set0"]


def test_a_label_sets_mean_is_reported_with_its_parts() -> None:
    features, labels = problem()
    result = linear.evaluate(
        make_eval("linear", "x", lr=0.5, label_sets=3, label_fraction=0.2),
        Features(features, labels, *2 * (features, labels)),
    )
    parts = [result[f"linear/top1_set{n}"] for n in range(3)]
    assert result["linear/top1"] == pytest.approx(sum(parts) / 3)
    assert result["linear/top5"] == 100  # four classes
    assert len(set(parts)) > 1


def test_divergence_is_a_failure_and_no_number() -> None:
    features, labels = problem()
    with pytest.raises(RunFailed, match="diverged"):
        linear.evaluate(
            make_eval("linear", "x", lr=1e30, label_fraction=0.2),
            Features(features * 1e10, labels, *2 * (features, labels)),
        )
