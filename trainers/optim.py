"""The optimizer and the learning-rate schedule."""

import math

from torch import nn

from eman.trainers.sgd import LARS, SGD, Optimizer
from eman.trainers.spec.sections import OptimSpec

#: Parameters whose names contain one of these are excluded by the official code's LARS.
_OFFICIAL_EXCLUDES = ("bn", "downsample.1", "bias")


def optimizer(spec: OptimSpec, network: nn.Module) -> Optimizer:
    """Build SGD or LARS.

    LARS updates some parameters without weight decay and trust ratio. ``spec.lars_exclude`` selects them: all vectors
    (biases, and weights of norms), or those that the official code selects by name (``_OFFICIAL_EXCLUDES``), which
    misses the norms of the heads and of ``small``'s stem.
    """
    if spec.optimizer == "sgd":
        return SGD(network.parameters(), spec.lr, spec.sgd_momentum, spec.weight_decay)
    excluded = {
        name: any(part in name for part in _OFFICIAL_EXCLUDES) if spec.lars_exclude == "official" else p.ndim <= 1
        for name, p in network.named_parameters()
    }
    adapted, plain = ([p for name, p in network.named_parameters() if excluded[name] == out] for out in (False, True))
    return LARS(adapted, spec.lr, spec.sgd_momentum, spec.weight_decay, plain)


def learning_rate(spec: OptimSpec, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to 0 or a division by 10 at each milestone.

    The warm-up advances at every step; the decay once per epoch, as in the official code, or at every step
    (``schedule_unit``).
    """
    warmup = spec.warmup_epochs * steps_per_epoch
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    epoch = step / steps_per_epoch if spec.schedule_unit == "step" else step // steps_per_epoch
    if spec.schedule == "cosine":
        span = max(spec.epochs - spec.warmup_epochs, 1e-9)
        return spec.lr * 0.5 * (1 + math.cos(math.pi * (epoch - spec.warmup_epochs) / span))
    return spec.lr * 0.1 ** sum(epoch >= milestone * spec.epochs for milestone in spec.milestones or ())
