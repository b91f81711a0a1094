"""Linear evaluation of a frozen backbone (Section 5.2): a classifier on a fraction of the labels, over label sets.

SGD with momentum 0.9, no weight decay, batch 256, 50 epochs, rate divided by 10 at epochs 30 and 40, initial weights
from N(0, 0.01), biases 0, no normalization of the features. With ``views`` ``augmented`` the classifier sees random
resized crops and flips, as in the official code; with ``cached``, features of the original images, computed once. The
classifiers of all learning rates and label sets train together on the same features.

Shapes: S label sets, L learning rates, n samples of a set, B samples of a batch, D features, K classes, M samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eman.evaluation.compute import labelled
from eman.evaluation.compute.cropping import cropped
from eman.evaluation.compute.labelled import SGD_MOMENTUM
from eman.evaluation.features import evaluating
from eman.evaluation.protocols.linear import LinearSpec
from eman.evaluation.protocols.protocol import EvalOutcome
from eman.evaluation.trained import Trained
from eman.trainers.data.order import epoch_order

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
    """Evaluate specifications that differ in the learning rate; see :func:`~eman.evaluation.compute.labelled.averaged`.

    Raises:
        RunFailed: The run has collapsed.
        UserError: A label set has no sample of some class.
    """
    spec, f = specs[0], trained.features
    features_of = augmented(trained, spec, seed) if spec.views == "augmented" else cached(f.train_ND)
    sets_Sn, labels_N = labelled.label_sets(trained, spec), f.train_labels_N
    classes, features = int(labels_N.max()) + 1, f.train_ND.shape[1]
    weights, biases = train(features_of, features, labels_N, sets_Sn, classes, spec, [s.lr for s in specs], seed)

    def measure(n: int) -> labelled.Accuracies:
        test_SMK, held_out_SMK = (x_MD.unsqueeze(0) @ weights[n] + biases[n] for x_MD in (f.test_ND, f.held_out_ND))
        return labelled.accuracies(test_SMK, f.test_labels_N, held_out_SMK, f.held_out_labels_N)

    return labelled.averaged(specs, measure)
