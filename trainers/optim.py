"""The optimizer, and the schedule of the learning rate."""

import math

from torch import nn

from eman.trainers.sgd import SGD, Optimizer
from eman.trainers.spec.sections import OptimSpec

#: Parts of the names of the parameters that the official code's LARS leaves out.
_OFFICIAL = ("bn", "downsample.1", "bias")


def optimizer(spec: OptimSpec, network: nn.Module) -> Optimizer:
    """Make SGD over all parameters alike, or LARS (timm's; eta 0.001) for BYOL at scale.

    LARS leaves some parameters undecayed and unadapted. ``spec.lars_exclude`` says which: all vectors (biases, and the
    scales of norms), or those that the official code finds by name (``_OFFICIAL``), which misses the norms of the
    heads, and of a stem where it is a plain sequence.
    """
    if spec.optimizer == "sgd":
        return SGD(network.parameters(), spec.lr, spec.sgd_momentum, spec.weight_decay)
    from timm.optim.lars import Lars

    excluded = {
        name: any(part in name for part in _OFFICIAL) if spec.lars_exclude == "official" else p.ndim <= 1
        for name, p in network.named_parameters()
    }
    groups = [
        {"params": [p for name, p in network.named_parameters() if not excluded[name]]},
        {"params": [p for name, p in network.named_parameters() if excluded[name]], "weight_decay": 0.0},
    ]
    return Lars(groups, lr=spec.lr, momentum=spec.sgd_momentum, weight_decay=spec.weight_decay, trust_coeff=0.001)


def learning_rate(spec: OptimSpec, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step: linear warm-up by iteration, then a cosine to 0 or tenfold drops.

    The decay moves once an epoch, as in the official code, or at each step, as ``schedule_unit`` says.
    """
    warmup = spec.warmup_epochs * steps_per_epoch
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    epoch = step / steps_per_epoch if spec.schedule_unit == "step" else step // steps_per_epoch
    if spec.schedule == "cosine":
        span = max(spec.epochs - spec.warmup_epochs, 1e-9)
        return spec.lr * 0.5 * (1 + math.cos(math.pi * (epoch - spec.warmup_epochs) / span))
    return spec.lr * 0.1 ** sum(epoch >= milestone * spec.epochs for milestone in spec.milestones or ())
