"""Finetuning of the whole network on a fraction of the labels (Section 5.2), over several label sets.

The backbone starts from the run's weights, a linear classifier from N(0, 0.01), each with its own learning rate. SGD
with momentum 0.9, weight decay 1e-4, batch 256, 50 epochs, rates divided by 10 at epochs 30 and 40; batch norms in
training mode, over the whole batch; random resized crops and flips. The result is that of the last epoch (the official
code reports the best epoch on the test images).

Shapes: N images of a batch, A channels, H by W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman.evaluation import features
from eman.evaluation.compute import linear
from eman.evaluation.compute.cropping import cropped
from eman.evaluation.protocols.finetune import FinetuneSpec
from eman.evaluation.protocols.protocol import EvalOutcome
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed
from eman.trainers.data.order import epoch_order
from eman.trainers.data.splits import AnySplit
from eman.trainers.precision import autocast

SGD_MOMENTUM = 0.9


def train(trained: Trained, index_n: Tensor, spec: FinetuneSpec, seed: int = 0) -> nn.Module:
    """Finetune a copy of the run's backbone with a new classifier.

    Args:
        trained: The run.
        index_n: int64, ``(n,)``, indices of the labelled images in the run's training split.
        spec: Learning rates and schedule.
        seed: Seed of the classifier's initial weights, sample order and augmentations.

    Returns:
        ``nn.Sequential`` of backbone and classifier.
    """
    splits, precision = trained.splits, trained.spec.network.precision
    backbone = trained.backbone()
    parameter = next(backbone.parameters())
    device, dtype = parameter.device, parameter.dtype
    width = trained.features.train_ND.shape[1]
    head = nn.Linear(width, len(splits.dataset.classes))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.01)
        head.bias.zero_()
    network = nn.Sequential(backbone, head.to(device, dtype)).train()
    groups = [
        {"params": list(backbone.parameters()), "lr": spec.lr},
        {"params": list(head.parameters()), "lr": spec.head_lr},
    ]
    optimizer = torch.optim.SGD(groups, momentum=SGD_MOMENTUM, weight_decay=spec.weight_decay, foreach=True)
    drops = [round(share * spec.epochs) for share in spec.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, 0.1)
    for epoch in range(spec.epochs):
        for batch in epoch_order(len(index_n), seed, 0, epoch).split(spec.batch):
            place_N = index_n[batch]
            x_NAHW = cropped(splits, place_N, epoch, seed=seed, crop_min=spec.crop_min, like=parameter)
            with autocast(device, precision):
                logits_NK = network(x_NAHW)
            loss = F.cross_entropy(logits_NK.to(dtype), splits.train.labels[place_N].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
    return network


def evaluate(specs: Sequence[FinetuneSpec], trained: Trained, seed: int = 0) -> list[EvalOutcome]:
    """Evaluate specifications that differ in the backbone's learning rate.

    Returns:
        For each rate, in percent and for example at 1 % of the labels: ``finetune/1pct_top1`` and
        ``finetune/1pct_top5`` on the test images and ``finetune/1pct_held_out_top1``, which selects the rate, as means
        over label sets; and ``finetune/1pct_top1_set0`` and so on for single sets. An error for a rate that diverges.

    Raises:
        RunFailed: The run has collapsed.
        UserError: A label set has no sample of some class.
    """
    sets_Sn = linear.label_sets(trained, specs[0])  # raises if the run has collapsed
    out: list[EvalOutcome] = []
    for spec in specs:
        try:
            parts = [_measured(trained, train(trained, index_n, spec, seed)) for index_n in sets_Sn]
        except RunFailed as error:
            out.append(error)
        else:
            out.append(linear.results(spec, *(torch.stack(part) for part in zip(*parts, strict=True))))
    return out


def _measured(trained: Trained, network: nn.Module) -> tuple[Any, ...]:
    """Return top-1 and top-5 accuracy on the test images, and top-1 on the held-out images, in percent."""
    splits, precision = trained.splits, trained.spec.network.precision

    def logits(split: AnySplit) -> Tensor:
        logits_MK = features.outputs(network, split, splits.dataset, precision)
        if not torch.isfinite(logits_MK).all():
            raise RunFailed("the finetuned network diverged")
        return logits_MK.unsqueeze(0)

    test_1MK = logits(splits.dataset.test)
    held_out_1MK = test_1MK if splits.held_out is splits.dataset.test else logits(splits.held_out)
    labels_M = splits.dataset.test.labels
    return (
        *(linear.top_accuracy(test_1MK, labels_M, top)[0] for top in (1, 5)),
        linear.top_accuracy(held_out_1MK, splits.held_out.labels, 1)[0],
    )
