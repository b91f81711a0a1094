"""Replacing the batch norms of any network by another norm."""

import math

from torch import nn

from eman.platform.errors import unknown
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.schemes import STUDENT_NORMS


def groups_for(kind: str, channels: int, *, vectors: bool) -> int:
    """Return the number of groups of the group normalization that implements ``gn``, ``in`` or ``ln``.

    ``gn`` takes the official code's 32 groups, fewer where a group would hold a single channel. ``ln`` is one group:
    over channels and space (Section 2). ``in`` is one group a channel; on a vector, where a channel is a single number
    that instance norm would erase, layer norm takes its place: the plainest norm that looks at one sample.
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
    """Replace every batch normalization in ``module`` by the norm named ``kind``.

    It works for any network: build it with plain ``BatchNorm``, then convert it, before training.

    Args:
        module: Any module. It is changed in place, and returned, since it may itself be a batch norm.
        kind: ``bn``, ``syncbn``, ``gn``, ``in`` or ``ln``.
        devices: Devices that this worker hosts.
        proxy_momentum: alpha of Eq. (4).
        device_statistics: ``"device0"`` or ``"mean"``, see :class:`DeviceBatchNorm`.

    Returns:
        The module. Learned weights and statistics are kept if the new norm has them.

    Raises:
        UserError: There is no such kind.
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
