"""Replace the batch norms of any network with another norm."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from eman.platform.errors import UserError, named
from eman.trainers.norm.activated import ActivatedNorm, EvoNorm, FilterResponseNorm
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.inner import activation_of, append, has_own_forward, take_over
from eman.trainers.norm.kinds import check_norm
from eman.trainers.norm.schemes import EACH_CHANNEL, STUDENT_NORMS, StudentNorm
from eman.trainers.norm.weights import standardize_weights


def groups_for(groups: int, channels: int, *, vectors: bool) -> int:
    """Return the number of groups of a group norm.

    Args:
        groups: The norm's ``groups``.
        channels: Number of channels.
        vectors: Whether inputs are vectors ``(N, C)`` instead of maps.
    """
    if groups == EACH_CHANNEL:
        return 1 if vectors else channels
    return math.gcd(groups, max(channels // 2, 1))


def convert_norm(
    module: nn.Module, kind: str, *, devices: int = 1, proxy_momentum: float = 0.9, device_statistics: str = "device0"
) -> nn.Module:
    """Replace every batch norm in ``module`` with the norm named ``kind``.

    It works for any network built with PyTorch's ``BatchNorm``; convert before training. A norm that stands in several
    places is replaced by one that does, too. A norm without weights (``affine=False``) stays without, and one with an
    activation (timm's ``BatchNormAct2d``) keeps it. Other norms stay as they are.

    A norm with its own activation also replaces a ReLU that follows it directly: in an ``nn.Sequential``, and after the
    norms that a module's ``norms_before_relu`` names. Elsewhere, as before a shortcut's addition, it stands without
    activation.

    Args:
        module: Any module; changed in place unless it is itself a batch norm.
        kind: A key of :data:`~eman.trainers.norm.schemes.STUDENT_NORMS`.
        devices: Devices that this worker hosts.
        proxy_momentum: Momentum alpha of Eq. (4).
        device_statistics: ``"device0"`` or ``"mean"``, see :class:`DeviceBatchNorm`.

    Returns:
        The converted module. Weights and statistics are kept if the new norm has them.

    Raises:
        UserError: The kind is unknown, or a norm cannot be replaced: it is frozen, does not know its channels yet,
            keeps no running statistics, computes in a way of its own, or is for volumes, and the kind for images.
    """
    norm = named("norm", kind, STUDENT_NORMS)
    for layer in module.modules():
        check_norm(layer)
    if norm.standardizes_weights:
        standardize_weights(module)
    return _Conversion(norm, devices, 1 - proxy_momentum, device_statistics).convert(module)


@dataclass(frozen=True)
class _Conversion:
    norm: StudentNorm
    devices: int
    momentum: float
    device_statistics: str
    done: dict[int, tuple[nn.Module, nn.Module]] = field(default_factory=dict)  # by id: before, after

    def convert(self, module: nn.Module, before_relu: bool = False) -> nn.Module:
        if id(module) in self.done:
            return self.done[id(module)][1]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            new = self._replacement(module, before_relu)
            self.done.update({id(module): (module, new), id(new): (new, new)})
            return new
        self.done[id(module)] = (module, module)
        activated = set(getattr(module, "norms_before_relu", ()))
        for (name, child), (after, following) in pairwise([*_children(module), ("", nn.Identity())]):
            in_sequence = isinstance(module, nn.Sequential) and isinstance(following, nn.ReLU)
            new = self.convert(child, in_sequence or name in activated)
            if new is not child:
                setattr(module, name, new)
            if in_sequence and isinstance(new, ActivatedNorm) and new.activated:
                setattr(module, after, nn.Identity())
        return module

    def _replacement(self, old: nn.modules.batchnorm._BatchNorm, before_relu: bool) -> nn.Module:
        if not isinstance(old, DeviceBatchNorm) and has_own_forward(old):
            raise UserError(
                f"{type(old).__name__} derives from batch norm and computes in a way of its own, which a scheme would "
                f"lose; build the network with PyTorch's BatchNorm."
            )
        activation = activation_of(old)
        new = self._layer(old, before_relu or isinstance(activation, nn.ReLU))
        assert old.running_mean is not None
        new = take_over(new, old).to(old.running_mean.device)
        if activation is not None and not (isinstance(new, ActivatedNorm) and new.activated):
            append(new, activation)
        return new

    def _layer(self, old: nn.modules.batchnorm._BatchNorm, before_relu: bool) -> nn.Module:
        channels, eps, vectors = old.num_features, old.eps, isinstance(old, nn.BatchNorm1d)
        if not isinstance(self.norm.layer, str):
            return self.norm.layer(channels, vectors)
        groups = groups_for(self.norm.groups, channels, vectors=vectors)
        match self.norm.layer:
            case "batch":
                return DeviceBatchNorm(
                    channels,
                    devices=self.devices,
                    sync=self.norm.sync,
                    eps=eps,
                    momentum=self.momentum,
                    device_statistics=self.device_statistics,
                )
            case "group":
                return nn.GroupNorm(groups, channels, eps=eps)
            case "frn" if not vectors:
                self._check_images(old)
                return FilterResponseNorm(channels, activated=before_relu, eps=eps)
            case "evonorm" if not vectors:
                self._check_images(old)
                return EvoNorm(channels, groups, activated=before_relu, eps=eps)
        return nn.GroupNorm(1, channels, eps=eps)

    def _check_images(self, old: nn.Module) -> None:
        if isinstance(old, nn.BatchNorm3d):
            raise UserError(f"{self.norm.title} is for images, and the network has a BatchNorm3d; give another norm.")


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a module's children; one that has two names twice, which ``named_children`` would name once."""
    modules = module.named_modules(remove_duplicate=False)
    return [(name, child) for name, child in modules if name and "." not in name]
