"""Backbones by name, without torch until one is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eman.platform.errors import named

if TYPE_CHECKING:
    from torch import nn

#: Prefix of the backbone's tensors in a network's state dict.
PREFIX = "backbone."

#: Suffix of backbones with twice the channels in every layer ("2x width" in Table 2).
WIDE = "-2x"


@dataclass(frozen=True)
class Backbone:
    """A backbone.

    Attributes:
        features: Number of output features, D.
        values: Size of its state dict for images of three channels: weights and running statistics.
        build: Builds the network for images of A channels; its output is ``(B, D)``.
    """

    features: int
    values: int
    build: Callable[[int], nn.Module]


#: Torchvision's ResNets: features, and state dict sizes at normal and at twice the width.
_RESNETS = {
    "resnet18": (512, 11_186_132, 44_687_252),
    "resnet34": (512, 21_301_732, 85_119_908),
    "resnet50": (2048, 23_561_205, 94_013_365),
    "resnet101": (2048, 42_605_608, 169_981_928),
}

#: Values that the small stem saves at normal width: 64 kernels of 3x3 instead of 7x7 pixels.
_STEM_DIFFERENCE = 64 * 3 * (7 * 7 - 3 * 3)


def _small(width: int, channels: int) -> nn.Module:
    from eman.trainers.backbones.small import SmallResNet

    return SmallResNet(channels, width)


def _resnet(name: str, width: int, small: bool, channels: int) -> nn.Module:
    from eman.trainers.backbones.resnet import build

    return build(name, channels, width=width, small=small)


def _wide(depth: int, width: int, channels: int) -> nn.Module:
    from eman.trainers.backbones.wide import WideResNet

    return WideResNet(channels, depth, width)


#: Every backbone; those with ``-small`` have a stem for small images.
BACKBONES = {
    "small": Backbone(64, 78_073, partial(_small, 16)),
    "small" + WIDE: Backbone(128, 308_713, partial(_small, 32)),
    "wrn-28-2": Backbone(128, 1_471_993, partial(_wide, 28, 2)),
    **{
        name + stem + suffix: Backbone(
            width * features, values[width - 1] - small * width * _STEM_DIFFERENCE, partial(_resnet, name, width, small)
        )
        for name, (features, *values) in _RESNETS.items()
        for small, stem in ((False, ""), (True, "-small"))
        for width, suffix in ((1, ""), (2, WIDE))
    },
}


def backbone_named(name: str) -> Backbone:
    """Return the backbone of that name; raise :class:`~eman.platform.errors.UserError` if there is none."""
    return named("backbone", name, BACKBONES)
