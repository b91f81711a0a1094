"""Linear evaluation of a frozen backbone (Section 5.2): a classifier on a fraction of the labels, over label sets.

SGD with momentum 0.9, no weight decay, batch 256, 50 epochs, rate divided by 10 at epochs 30 and 40, initial weights
from N(0, 0.01), biases 0, no normalization of the features. With ``views`` ``augmented`` the classifier sees random
resized crops and flips, as in the official code; with ``cached``, features of the original images, computed once. The
classifiers of all learning rates and label sets train together on the same features.

Shapes: S label sets, L learning rates, n samples of a set, B samples of a batch, D features, K classes, M test samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eman.evaluation.compute.cropping import cropped
from eman.evaluation.features import evaluating
from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.linear import LinearSpec
from eman.evaluation.protocols.protocol import EvalOutcome, Measured
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed
from eman.trainers.data import label_sets as data_label_sets
from eman.trainers.data.order import epoch_order

SGD_MOMENTUM = 0.9

#: From indices of samples, ``(S, B)``, and an epoch to their features, ``(S, B, D)``.
FeaturesOf = Callable[[Tensor, int], Tensor]


def train(
    features_of: FeaturesOf,
    features: int,
    labels_N: Tensor,
    sets_Sn: Tensor,
    classes: int,
    spec: LinearSpec,
    rates: Sequence[float],
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Train one classifier per learning rate and label set, on cross-entropy.

    Args:
        features_of: Returns the features of a batch of samples.
        features: D.
        labels_N: int64, classes of all samples.
        sets_Sn: int64, indices of each label set's samples.
        classes: K.
        spec: Schedule and batch, common to all classifiers.
        rates: L learning rates.
        seed: Seed of initial weights and sample order.

    Returns:
        Weights ``(L, S, D, K)`` and biases ``(L, S, 1, K)``. Those of a classifier that diverges are not finite; the
        others are not affected.
    """
    sets, samples = sets_Sn.shape
    generator = torch.Generator().manual_seed(seed)
    start_KD = torch.randn(features, classes, generator=generator).mul(0.01).T
    # Classes before rates before samples: softmax over the middle of a tensor is several times as fast as over its end.
    weight_SXD = start_KD.unsqueeze(1).expand(-1, len(rates), -1).flatten(0, 1).repeat(sets, 1, 1)  # X: K x L
    bias_SX1 = torch.zeros(sets, classes * len(rates), 1)
    velocity_w, velocity_b = torch.zeros_like(weight_SXD), torch.zeros_like(bias_SX1)
    drops = [share * spec.epochs for share in spec.milestones]
    for epoch in range(spec.epochs):
        fall = 0.1 ** sum(epoch >= drop for drop in drops)
        rate_X1 = torch.tensor([-rate * fall for rate in rates]).repeat(classes).unsqueeze(1)
        for batch in epoch_order(samples, seed, 0, epoch).split(spec.batch):
            index_SB = sets_Sn.index_select(1, batch)
            x_SBD = features_of(index_SB, epoch)
            logits_SXB = torch.baddbmm(bias_SX1, weight_SXD, x_SBD.transpose(1, 2))
            error_SKLB = torch.softmax(logits_SXB.unflatten(1, (classes, len(rates))), 1)
            label_SB = labels_N.index_select(0, index_SB.flatten()).view(sets, -1)
            place_SKLB = label_SB.view(sets, 1, 1, -1).expand(-1, -1, len(rates), -1)
            error_SKLB.scatter_add_(1, place_SKLB, error_SKLB.new_full((), -1.0).expand(place_SKLB.shape))
            error_SXB = error_SKLB.flatten(1, 2).div_(len(batch))
            velocity_w.mul_(SGD_MOMENTUM).baddbmm_(error_SXB, x_SBD)
            velocity_b.mul_(SGD_MOMENTUM).add_(error_SXB.sum(2, keepdim=True))
            weight_SXD.addcmul_(velocity_w, rate_X1)
            bias_SX1.addcmul_(velocity_b, rate_X1)
    weights, biases = (x.unflatten(1, (classes, len(rates))).permute(2, 0, 3, 1) for x in (weight_SXD, bias_SX1))
    return weights, biases


def rows(x_ND: Tensor, index_SB: Tensor) -> Tensor:
    """Return ``x_ND[index_SB]``, in half the time of indexing."""
    return x_ND.index_select(0, index_SB.flatten()).view(*index_SB.shape, -1)


def accuracy(features_MD: Tensor, labels_M: Tensor, weight: Tensor, bias: Tensor, top: int) -> Tensor:
    """Return the top-``top`` accuracy of each label set's classifier in percent, ``(S,)``.

    Raises:
        RunFailed: The classifier diverged.
    """
    logits_SMK = features_MD.unsqueeze(0) @ weight + bias
    if not torch.isfinite(logits_SMK).all():
        raise RunFailed("the linear classifier diverged")
    return top_accuracy(logits_SMK, labels_M, top)


def top_accuracy(logits_SMK: Tensor, labels_M: Tensor, top: int) -> Tensor:
    """Return the share of samples whose class is among the ``top`` largest logits, in percent, ``(S,)``."""
    best = logits_SMK.topk(min(top, logits_SMK.shape[-1]), dim=-1).indices
    return 100 * (best == labels_M.view(1, -1, 1)).any(2).double().mean(1)


def label_sets(trained: Trained, spec: LabelledSpec) -> Tensor:
    """Return the samples of each label set, ``(S, n)``: class-balanced, or those of the index files in ``label_index``.

    Raises:
        UserError: A class would get no sample, or an index file is missing.
    """
    labels_N = trained.features.train_labels_N  # raises if the run has collapsed
    if spec.label_index is not None:
        splits = trained.splits
        name, files = splits.dataset.name, spec.label_index.split(",")
        return torch.stack([data_label_sets.indexed(name, file, splits.train, trained.workspace) for file in files])
    return torch.stack(
        [data_label_sets.label_set(labels_N, spec.label_fraction, number) for number in range(spec.label_sets)]
    )


def results(spec: LabelledSpec, top1_S: Tensor, top5_S: Tensor, held_out_S: Tensor) -> Measured:
    """Return the metrics of an evaluation, from accuracies by label set: means, and top-1 of single sets."""
    name = spec.prefix
    metrics = {
        f"{name}top1": float(top1_S.mean()),
        f"{name}top5": float(top5_S.mean()),
        spec.held_out_metric: float(held_out_S.mean()),
        **{f"{name}top1_set{number}": float(value) for number, value in enumerate(top1_S)},
    }
    return Measured(metrics, spec.held_out_metric)


def augmented(trained: Trained, spec: LinearSpec, seed: int) -> FeaturesOf:
    """Return a function that computes features of random crops and flips of training images, new in every epoch."""
    backbone, precision = trained.backbone(), trained.spec.network.precision
    parameter = next(backbone.parameters())

    def features_of(index_SB: Tensor, epoch: int) -> Tensor:
        sets, flat = index_SB.shape[0], index_SB.flatten()
        with evaluating(backbone, precision):
            x_NAHW = cropped(trained.splits, flat, epoch, seed=seed, crop_min=spec.crop_min, like=parameter)
            return backbone(x_NAHW).float().cpu().unflatten(0, (sets, -1))  # type: ignore[no-any-return]

    return features_of


def cached(x_ND: Tensor) -> FeaturesOf:
    """Return a function that looks up features of the original images."""
    return lambda index_SB, epoch: rows(x_ND, index_SB)


def evaluate(specs: Sequence[LinearSpec], trained: Trained, seed: int = 0) -> list[EvalOutcome]:
    """Evaluate specifications that differ in the learning rate.

    Returns:
        For each rate, in percent and for example at 10 % of the labels: ``linear/10pct_top1`` and
        ``linear/10pct_top5`` on the test images and ``linear/10pct_held_out_top1``, which selects the rate, as means
        over label sets; and ``linear/10pct_top1_set0`` and so on for single sets. An error for a rate that diverges.

    Raises:
        RunFailed: The run has collapsed.
        UserError: A label set has no sample of some class.
    """
    spec, f = specs[0], trained.features
    features_of = augmented(trained, spec, seed) if spec.views == "augmented" else cached(f.train_ND)
    labels_N = f.train_labels_N
    sets_Sn = label_sets(trained, spec)
    classes, features = int(labels_N.max()) + 1, f.train_ND.shape[1]
    weights, biases = train(features_of, features, labels_N, sets_Sn, classes, spec, [s.lr for s in specs], seed)
    out: list[EvalOutcome] = []
    for one, weight, bias in zip(specs, weights, biases, strict=True):
        try:
            held_out_S = accuracy(f.held_out_ND, f.held_out_labels_N, weight, bias, 1)
            top1_S, top5_S = (accuracy(f.test_ND, f.test_labels_N, weight, bias, top) for top in (1, 5))
            out.append(results(one, top1_S, top5_S, held_out_S))
        except RunFailed as error:
            out.append(error)
    return out
