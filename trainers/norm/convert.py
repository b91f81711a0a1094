"""Replace the batch norms of any network with another norm."""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from eman.platform.errors import named
from eman.trainers.norm.activated import ActivatedNorm, EvoNorm, FilterResponseNorm
from eman.trainers.norm.device_bn import DeviceBatchNorm
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

    It works for any network built with PyTorch's ``BatchNorm``; convert before training.

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
        UserError: The kind is unknown.
    """
    norm = named("norm", kind, STUDENT_NORMS)
    if norm.standardizes_weights:
        standardize_weights(module)
    return _Conversion(norm, devices, 1 - proxy_momentum, device_statistics).convert(module)


@dataclass(frozen=True)
class _Conversion:
    norm: StudentNorm
    devices: int
    momentum: float
    device_statistics: str

    def convert(self, module: nn.Module, before_relu: bool = False) -> nn.Module:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return self._replacement(module, before_relu)
        activated = set(getattr(module, "norms_before_relu", ()))
        children: list[tuple[str, nn.Module | None]] = list(module.named_children())
        for (name, child), (after, following) in pairwise([*children, ("", None)]):
            assert child is not None
            in_sequence = isinstance(module, nn.Sequential) and isinstance(following, nn.ReLU)
            new = self.convert(child, in_sequence or name in activated)
            if new is not child:
                setattr(module, name, new)
            if in_sequence and isinstance(new, ActivatedNorm):
                setattr(module, after, nn.Identity())
        return module

    def _replacement(self, old: nn.modules.batchnorm._BatchNorm, before_relu: bool) -> nn.Module:
        new = self._layer(old, before_relu)
        own = new.state_dict()
        new.load_state_dict({**own, **{name: kept for name, kept in old.state_dict().items() if name in own}})
        return new.to(old.weight.device if old.affine else "cpu")

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
                return FilterResponseNorm(channels, activated=before_relu, eps=eps)
            case "evonorm" if not vectors:
                return EvoNorm(channels, groups, activated=before_relu, eps=eps)
        return nn.GroupNorm(1, channels, eps=eps)
