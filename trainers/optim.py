"""The optimizer and the learning-rate schedule."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from eman.trainers.sgd import LARS, SGD, Optimizer
from eman.trainers.spec.sections import OptimSpec

#: Parameters whose names contain one of these are excluded by the official code's LARS.
_OFFICIAL_EXCLUDES = ("bn", "downsample.1", "bias")


def optimizer(spec: OptimSpec, network: nn.Module) -> Optimizer:
    """Build SGD or LARS.

    SGD decays all parameters, or all but vectors (``spec.decay_exempts_vectors``).

    LARS updates some parameters without weight decay and trust ratio. ``spec.lars_exclude`` selects them: all vectors
    (biases, and weights of norms), or those that the official code selects by name (``_OFFICIAL_EXCLUDES``), which
    misses the norms of the heads and of ``small``'s stem. ``spec.lars_rate`` says where the learning rate enters.
    """
    if spec.optimizer == "sgd":
        decayed, exempt = _divided(network, lambda _, p: spec.decay_exempts_vectors and p.ndim <= 1)
        return SGD(decayed, spec.lr, spec.sgd_momentum, spec.weight_decay, exempt, spec.nesterov)
    official = spec.lars_exclude == "official"
    adapted, plain = _divided(
        network, lambda name, p: any(part in name for part in _OFFICIAL_EXCLUDES) if official else p.ndim <= 1
    )
    inside = spec.lars_rate == "inside"
    return LARS(adapted, spec.lr, spec.sgd_momentum, spec.weight_decay, plain, rate_inside=inside)


def _divided(network: nn.Module, is_exempt: Callable[[str, Tensor], bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters that are not exempt, and those that are."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in network.named_parameters():
        parts[is_exempt(name, parameter)].append(parameter)
    return parts


def learning_rate(spec: OptimSpec, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine or a division by 10 at each milestone.

    The warm-up advances at every step; the decay once per epoch, as in the official code, or at every step
    (``schedule_unit``).
    """
    warmup = spec.warmup_epochs * steps_per_epoch
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    epoch = step / steps_per_epoch if spec.schedule_unit == "step" else step // steps_per_epoch
    if spec.schedule == "cosine":
        time = (epoch - spec.warmup_epochs) / max(spec.epochs - spec.warmup_epochs, 1e-9)
        if spec.cosine_arc is not None:
            return spec.lr * math.cos(math.pi * spec.cosine_arc * time)
        return spec.lr * 0.5 * (1 + math.cos(math.pi * time))
    return spec.lr * 0.1 ** sum(epoch >= milestone * spec.epochs for milestone in spec.milestones or ())
