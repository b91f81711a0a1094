"""Linear evaluation on frozen features (Section 5.2): a classifier on a share of the labels, over several label sets.

SGD with momentum 0.9, no weight decay, batch 256, 50 epochs, rate divided by 10 at epochs 30 and 40, weights drawn from
N(0, 0.01), biases 0, no normalization of the features. The classifiers of all label sets train side by side.

Shapes: S label sets, n samples of a set, B samples of a batch, D features, K classes, M test samples.
"""

import torch
from torch import Tensor

from eman.evaluation.features import Features
from eman.platform.errors import RunFailed
from eman.platform.spec import EvalSpec
from eman.trainers import data
from eman.trainers.data import epoch_order

SGD_MOMENTUM = 0.9


def train(
    features_ND: Tensor, labels_N: Tensor, sets_Sn: Tensor, classes: int, spec: EvalSpec
) -> tuple[Tensor, Tensor]:
    """Trains one classifier a label set with the plain cross-entropy gradient.

    Returns:
        Weights ``(S, D, K)`` and biases ``(S, 1, K)``.
    """
    assert spec.lr and spec.epochs and spec.batch and spec.milestones is not None
    sets, samples = sets_Sn.shape
    x_SnD = features_ND[sets_Sn]
    target_SnK = torch.nn.functional.one_hot(labels_N[sets_Sn], classes).float()
    generator = torch.Generator().manual_seed(spec.seed)
    weight = torch.randn(1, features_ND.shape[1], classes, generator=generator).mul(0.01).repeat(sets, 1, 1)
    bias = torch.zeros(sets, 1, classes)
    velocity_w, velocity_b = torch.zeros_like(weight), torch.zeros_like(bias)
    drops = [share * spec.epochs for share in spec.milestones]
    for epoch in range(spec.epochs):
        rate = spec.lr * 0.1 ** sum(epoch >= drop for drop in drops)
        for batch in epoch_order(samples, spec.seed, 0, epoch).split(spec.batch):
            x_SBD = x_SnD[:, batch]
            error_SBK = (torch.softmax(torch.baddbmm(bias, x_SBD, weight), 2) - target_SnK[:, batch]) / len(batch)
            velocity_w.mul_(SGD_MOMENTUM).baddbmm_(x_SBD.transpose(1, 2), error_SBK)
            velocity_b.mul_(SGD_MOMENTUM).add_(error_SBK.sum(1, keepdim=True))
            weight.sub_(velocity_w, alpha=rate)
            bias.sub_(velocity_b, alpha=rate)
    return weight, bias


def accuracy(features_MD: Tensor, labels_M: Tensor, weight: Tensor, bias: Tensor, top: int) -> Tensor:
    """Top-``top`` accuracy of each label set's classifier in percent, ``(S,)``."""
    logits_SMK = features_MD.unsqueeze(0) @ weight + bias
    if not torch.isfinite(logits_SMK).all():
        raise RunFailed("the linear classifier diverged")
    best = logits_SMK.topk(min(top, logits_SMK.shape[2]), dim=2).indices
    return 100 * (best == labels_M.view(1, -1, 1)).any(2).double().mean(1)


def evaluate(spec: EvalSpec, found: Features) -> dict[str, float]:
    """One learning rate's result.

    Returns:
        ``linear/top1`` and ``linear/top5`` on the test split, and ``linear/held_out_top1``, by which a rate is chosen;
        each the mean over label sets, in percent; ``linear/top1_set0`` and so on for the single sets.

    Raises:
        RunFailed: The classifier diverged.
    """
    assert spec.label_fraction is not None and spec.label_sets is not None
    labels_N = found.train_labels_N
    sets_Sn = torch.stack([data.label_set(labels_N, spec.label_fraction, number) for number in range(spec.label_sets)])
    weight, bias = train(found.train_ND, labels_N, sets_Sn, int(labels_N.max()) + 1, spec)
    top1_S = accuracy(found.test_ND, found.test_labels_N, weight, bias, 1)
    held_out_S = accuracy(found.held_out_ND, found.held_out_labels_N, weight, bias, 1)
    return {
        "linear/top1": float(top1_S.mean()),
        "linear/top5": float(accuracy(found.test_ND, found.test_labels_N, weight, bias, 5).mean()),
        "linear/held_out_top1": float(held_out_S.mean()),
        **{f"linear/top1_set{number}": float(value) for number, value in enumerate(top1_S)},
    }
