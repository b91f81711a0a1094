"""Batch normalization of the Momentum^2 teacher.

Shapes: N samples on this worker, V devices on this worker, P passes in one, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.inner import activation_of, append, take_over
from eman.trainers.norm.sync import at_least_float32


class MomentumBatchNorm(DeviceBatchNorm):
    r"""Normalize with moving statistics that have taken in the current batch (Li et al., arXiv 2101.07525).

    .. math::
        \hat\mu_v = a \mu_{B,v} + (1 - a) \mu', \quad
        y = \gamma \frac{x - \hat\mu_v}{\sqrt{\hat\sigma_v^2 + \epsilon}} + \beta, \quad
        \mu' := \hat\mu_0

    and likewise for the variance, where v is a device and a, ``batch_weight``, is that of :func:`batch_weight`. The
    moving statistics follow device 0, as under DDP's buffer broadcast, or the mean over devices
    (``device_statistics``). P views of a step in one pass are each normalized with their own batch's statistics; the
    moving statistics then take in their mean, once per step (the paper's lazy update).

    The authors' code differs in one thing: it multiplies PyTorch's unbiased variance of the batch by n / (n - 1) again.

    No gradient flows to the moving statistics; a teacher needs none.
    """

    batch_weight: Tensor

    def _kernels_apply(self, x: Tensor, residual: Tensor | None) -> bool:
        return not self.training and super()._kernels_apply(x, residual)

    def _by_pytorch(self, x: Tensor, groups: int) -> Tensor:
        if not self.training:
            return super()._by_pytorch(x, groups)
        assert self.running_mean is not None and self.running_var is not None
        samples, channels = x.shape[:2]
        view = x.reshape(samples // groups, groups * channels, *x.shape[2:])
        var, mean = torch.var_mean(at_least_float32(view), [0, *range(2, view.dim())])
        a = self.batch_weight.to(mean.dtype)
        mean, var = (
            torch.lerp(before.repeat(groups), now, a)
            for before, now in ((self.running_mean, mean), (self.running_var, var))
        )
        y = F.batch_norm(
            view, mean, var, self.weight.repeat(groups), self.bias.repeat(groups), False, 0.0, self.eps
        ).reshape(x.shape)
        if not self.frozen:
            over_devices = self.device_statistics == "mean"
            for running, now in ((self.running_mean, mean), (self.running_var, var)):
                now_VPC = now.view(-1, self.passes, channels)
                running.copy_((now_VPC.mean(0) if over_devices else now_VPC[0]).mean(0))
        return y


def batch_weight(passes: Tensor, total: int) -> Tensor:
    r"""Return the weight of a batch, :math:`a = (1 + \cos(\pi t / T)) / 2`, which falls from 1 to 0 over the run.

    Args:
        passes: t, the teacher's passes so far, a floating-point scalar.
        total: T, the passes of the whole run; later passes have weight 0.
    """
    return (1 + torch.cos(passes.clamp(max=total) * (math.pi / total))) / 2


def with_momentum_norms(module: nn.Module) -> nn.Module:
    """Replace every batch norm with running statistics by :class:`MomentumBatchNorm`, with the same state.

    One that stands in several places is replaced by one that does, too.
    """
    made = {id(layer): _momentum_norm(layer) for layer in module.modules() if _keeps_statistics(layer)}
    places = list(module.named_modules(remove_duplicate=False))
    for place, layer in places:
        if id(layer) in made and place:
            parent, _, name = place.rpartition(".")
            setattr(module.get_submodule(parent), name, made[id(layer)])
    return made.get(id(module), module)


def _keeps_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None


def _momentum_norm(old: nn.Module) -> nn.Module:
    assert isinstance(old, nn.modules.batchnorm._BatchNorm) and old.running_mean is not None
    own = (old.devices, old.device_statistics) if isinstance(old, DeviceBatchNorm) else (1, "device0")
    new = MomentumBatchNorm(old.num_features, devices=own[0], device_statistics=own[1], eps=old.eps)
    new = take_over(new, old).to(old.running_mean.device, old.running_mean.dtype)
    activation = activation_of(old)
    if activation is not None:
        append(new, activation)
    return new
