"""Replace the batch norms of any network with another norm."""

import math

from torch import nn

from eman.platform.errors import unknown
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.schemes import STUDENT_NORMS


def groups_for(kind: str, channels: int, *, vectors: bool) -> int:
    """Return the number of groups with which group normalization implements ``gn``, ``in`` or ``ln``.

    ``gn`` uses the official code's 32 groups, or fewer so that each has at least two channels. ``ln`` is one group,
    over channels and pixels (Section 2). ``in`` is one group per channel; on vectors, where instance norm would erase
    every value, it is layer norm.

    Args:
        kind: ``gn``, ``in`` or ``ln``.
        channels: Number of channels.
        vectors: Whether inputs are vectors ``(N, C)`` instead of maps.

    Raises:
        UserError: The kind is none of these.
    """
    match kind:
        case "gn":
            return math.gcd(32, max(channels // 2, 1))
        case "in" if not vectors:
            return channels
        case "in" | "ln":
            return 1
    raise unknown("norm", kind, STUDENT_NORMS)


def convert_norm(
    module: nn.Module, kind: str, *, devices: int = 1, proxy_momentum: float = 0.9, device_statistics: str = "device0"
) -> nn.Module:
    """Replace every batch norm in ``module`` with the norm named ``kind``.

    It works for any network built with PyTorch's ``BatchNorm``; convert before training.

    Args:
        module: Any module; changed in place unless it is itself a batch norm.
        kind: ``bn``, ``syncbn``, ``gn``, ``in`` or ``ln``.
        devices: Devices that this worker hosts.
        proxy_momentum: Momentum alpha of Eq. (4).
        device_statistics: ``"device0"`` or ``"mean"``, see :class:`DeviceBatchNorm`.

    Returns:
        The converted module. Weights and statistics are kept if the new norm has them.

    Raises:
        UserError: The kind is unknown.
    """
    if kind not in STUDENT_NORMS:
        raise unknown("norm", kind, STUDENT_NORMS)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        new: nn.Module
        if kind in ("bn", "syncbn"):
            new = DeviceBatchNorm(
                module.num_features,
                devices=devices,
                sync=kind == "syncbn",
                eps=module.eps,
                momentum=1 - proxy_momentum,
                device_statistics=device_statistics,
            )
            new.load_state_dict(module.state_dict())
        else:
            groups = groups_for(kind, module.num_features, vectors=isinstance(module, nn.BatchNorm1d))
            new = nn.GroupNorm(groups, module.num_features, eps=module.eps)
            if module.affine:
                new.load_state_dict({"weight": module.weight, "bias": module.bias})
        return new.to(module.weight.device if module.affine else "cpu")
    for name, child in module.named_children():
        setattr(
            module,
            name,
            convert_norm(
                child, kind, devices=devices, proxy_momentum=proxy_momentum, device_statistics=device_statistics
            ),
        )
    return module
