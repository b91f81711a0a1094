"""Finetuning of the whole network on a fraction of the labels (Section 5.2), over several label sets.

The backbone starts from the run's weights, a linear classifier from random ones, each with its own learning rate. SGD
with momentum 0.9, weight decay 1e-4, batch 256, 50 epochs, rates divided by 10 at epochs 30 and 40; batch norms in
training mode, over the images of each device (also in a run trained with SyncBN), keeping the running statistics of
device 0; random resized crops and flips. The result is that of the last epoch (the official code reports the best epoch
on the test images).

Shapes: N images of a batch, A channels, H by W pixels, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman.evaluation import features
from eman.evaluation.compute import labelled
from eman.evaluation.compute.cropping import cropped
from eman.evaluation.compute.labelled import SGD_MOMENTUM
from eman.evaluation.protocols.finetune import FinetuneSpec
from eman.evaluation.protocols.protocol import EvalOutcome
from eman.evaluation.trained import Trained
from eman.trainers.data.order import epoch_order
from eman.trainers.norm.device_bn import device_norms
from eman.trainers.precision import autocast


def train(trained: Trained, index_n: Tensor, spec: FinetuneSpec, seed: int = 0) -> nn.Module:
    """Finetune a copy of the run's backbone with a new classifier, and return both as one ``nn.Sequential``.

    ``index_n``, int64, are the labelled images in the run's training split. ``seed`` decides the classifier's initial
    weights, sample order and augmentations.
    """
    splits, precision = trained.splits, trained.spec.network.precision
    backbone = trained.backbone()
    parameter = next(backbone.parameters())
    device, dtype = parameter.device, parameter.dtype
    for layer in device_norms(backbone):
        layer.devices, layer.sync = spec.devices, False
    head = classifier(trained.features.train_ND.shape[1], len(splits.dataset.classes), spec.head_init, seed)
    network = nn.Sequential(backbone, head.to(device, dtype)).train()
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    groups = [
        {"params": list(backbone.parameters()), "lr": spec.lr},
        {"params": list(head.parameters()), "lr": spec.head_lr},
    ]
    optimizer = torch.optim.SGD(groups, momentum=SGD_MOMENTUM, weight_decay=spec.weight_decay, foreach=True)
    drops = [round(share * spec.epochs) for share in spec.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, 0.1)
    for epoch in range(spec.epochs):
        for batch in _padded(epoch_order(len(index_n), seed, 0, epoch), spec.devices).split(spec.batch):
            place_N = index_n[batch]
            x_NAHW = cropped(splits, place_N, epoch, seed=seed, crop_min=spec.crop_min, like=parameter)
            with autocast(device, precision):
                logits_NK = network(x_NAHW)
            loss = F.cross_entropy(logits_NK.to(dtype), splits.train.labels[place_N].to(device))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
    return network


def classifier(features: int, classes: int, init: str, seed: int) -> nn.Linear:
    """Return a new linear classifier on the CPU, initialized from ``seed``.

    Args:
        features: Number of input features.
        classes: Number of outputs.
        init: ``"uniform"`` or ``"normal"``, see ``FinetuneSpec.head_init``.
        seed: Seed of the initial weights.
    """
    head, generator = nn.Linear(features, classes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if init == "normal":
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.01)
            head.bias.zero_()
        else:
            for parameter in (head.weight, head.bias):
                parameter.uniform_(-(features**-0.5), features**-0.5, generator=generator)
    return head


def _padded(order_n: Tensor, devices: int) -> Tensor:
    """Repeat an epoch's first samples at its end, so that every batch divides by the number of devices.

    PyTorch's ``DistributedSampler`` does the same.
    """
    samples = len(order_n)
    return order_n[torch.arange(samples + -samples % devices) % samples]


def evaluate(specs: Sequence[FinetuneSpec], trained: Trained, seed: int = 0) -> list[EvalOutcome]:
    """Evaluate specifications that differ in the backbone's learning rate; see
    :func:`~eman.evaluation.compute.labelled.averaged`.

    Raises:
        RunFailed: The run has collapsed.
        UserError: A label set has no sample of some class.
    """
    sets_Sn, splits = labelled.label_sets(trained, specs[0]), trained.splits
    test, held_out, precision = splits.dataset.test, splits.held_out, trained.spec.network.precision

    def measure(n: int) -> labelled.Accuracies:
        parts = []
        for index_n in sets_Sn:
            network = train(trained, index_n, specs[n], seed)
            test_1MK = features.outputs(network, test, splits.dataset, precision).unsqueeze(0)
            held_out_1MK = test_1MK
            if held_out is not test:
                held_out_1MK = features.outputs(network, held_out, splits.dataset, precision).unsqueeze(0)
            parts.append(labelled.accuracies(test_1MK, test.labels, held_out_1MK, held_out.labels))
        top1_S, top5_S, held_out_S = (torch.cat(part) for part in zip(*parts, strict=True))
        return top1_S, top5_S, held_out_S

    return labelled.averaged(specs, measure)
