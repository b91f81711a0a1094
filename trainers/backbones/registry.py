"""Backbones by name. Importing this file imports no network and no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eman.platform.errors import named

if TYPE_CHECKING:
    from torch import nn

#: What the backbone's part of a network's state begins with.
PREFIX = "backbone."

#: The ending of the name of a backbone with twice the channels in every layer ("2x width" in Table 2).
WIDE = "-2x"


@dataclass(frozen=True)
class Backbone:
    """A backbone.

    Attributes:
        features: Number D of features of its output.
        build: Build the network for images of A channels.
    """

    features: int
    build: Callable[[int], nn.Module]


#: Features of torchvision's ResNets.
_RESNETS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}


def _small(width: int, channels: int) -> nn.Module:
    from eman.trainers.backbones.small import SmallResNet

    return SmallResNet(channels, width)


def _resnet(name: str, width: int, small: bool, channels: int) -> nn.Module:
    from eman.trainers.backbones.resnet import build

    return build(name, channels, width=width, small=small)


#: Every backbone; ``-small`` has a stem for small images.
BACKBONES = {
    "small": Backbone(64, partial(_small, 16)),
    "small" + WIDE: Backbone(128, partial(_small, 32)),
    **{
        name + stem + suffix: Backbone(width * features, partial(_resnet, name, width, small))
        for name, features in _RESNETS.items()
        for small, stem in ((False, ""), (True, "-small"))
        for width, suffix in ((1, ""), (2, WIDE))
    },
}


def backbone_named(name: str) -> Backbone:
    """Return the backbone of that name; raise :class:`~eman.platform.errors.UserError` if there is none."""
    return named("backbone", name, BACKBONES)
