"""Backbones by name: registered ones, and those of timm and torchvision. Without torch until one is built or measured.

Shapes: B images, A channels of an image, D features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from eman.platform.errors import UserError, unknown
from eman.platform.registry import Registry
from eman.trainers.backbones.measures import Measures

if TYPE_CHECKING:
    from torch import nn

#: Prefix of the backbone's tensors in a network's state dict.
PREFIX = "backbone."

#: Suffix of backbones with twice the channels in every layer ("2x width" in Table 2).
WIDE = "-2x"

#: Suffix of backbones whose stem is for small images: a 3x3 convolution of stride 1, and no pooling.
SMALL = "-small"

#: Prefixes of backbones that a library builds: ``timm:resnet18``.
LIBRARIES = ("timm", "torchvision")

#: Height and width for which a backbone is measured where those of the images are not known.
USUAL_SIZE = 224


@dataclass(frozen=True)
class Backbone:
    """A backbone.

    Attributes:
        name: Its name.
        build: Builds the network from the channels of an image; it may also take ``image_size``. See
            :func:`register_backbone`.
        features: Number of output features that was registered, if any.
        version: Part of the keys of runs, except for version 1.
        known: Its measures for images of three channels, if they were registered.
    """

    name: str
    build: Callable[..., nn.Module]
    features: int | None = None
    version: int = 1
    known: Measures | None = None

    def network(self, channels: int, image_size: int | None = None) -> nn.Module:
        """Build the network for images of ``channels`` channels and ``image_size`` pixels in height and width."""
        sized = "image_size" in inspect.signature(self.build).parameters
        return self.build(channels, image_size=image_size or USUAL_SIZE) if sized else self.build(channels)

    def measures(self, channels: int = 3, image_size: int | None = None) -> Measures:
        """Return its measures: the known ones, or those of a network that is built once per process, without memory.

        Raises:
            UserError: It does not map images of that size to ``(B, D)``.
        """
        return self.known or _measures(self, channels, image_size or USUAL_SIZE)


@lru_cache(maxsize=32)
def _measures(entry: Backbone, channels: int, image_size: int) -> Measures:
    from eman.trainers.backbones.measure import measure

    return measure(entry.name, entry.network, entry.features, channels, image_size)


#: Every registered backbone by name; those with ``-small`` have a stem for small images.
BACKBONES = Registry[Backbone]("backbone")


def register_backbone(
    name: str,
    build: Callable[..., nn.Module],
    *,
    features: int | None = None,
    values: int | None = None,
    norms: tuple[str, ...] | None = None,
    version: int = 1,
) -> None:
    """Add a backbone, which runs choose by ``backbone=NAME``.

    Args:
        name: Its name.
        build: From A, the channels of an image, to a network from images ``(B, A, H, W)`` to features ``(B, D)``. If it
            has a parameter ``image_size``, it is also given the images' height and width in pixels. Its norms are
            PyTorch's, which :func:`~eman.trainers.norm.convert.convert_norm` replaces as the scheme says.
        features: D; by default it is found out from a network that is built without memory.
        values: Size of the network's state dict for images of three channels; by default likewise.
        norms: Kinds of the network's norms, see :class:`Measures`; by default likewise. With all three, plans need no
            torch.
        version: Raise it when a change of the network changes results; it is part of the keys of runs.

    Raises:
        UserError: The name is taken or is not a name, or the version is not positive.
    """
    BACKBONES.check(name)
    if not callable(build):
        raise UserError(f"build of backbone {name!r} is {build!r}; give a function from channels to an nn.Module.")
    if version < 1:
        raise UserError(f"version of backbone {name!r} is {version}; give 1 or more.")
    known = None
    if features is not None and values is not None and norms is not None:
        known = Measures(features, values, norms)
    BACKBONES.add(name, Backbone(name, build, features, version, known))


def backbone_named(name: str) -> Backbone:
    """Return the backbone of that name; raise :class:`~eman.platform.errors.UserError` if there is none."""
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES:
        return _of_library(library, model)
    if name not in BACKBONES:
        raise unknown("backbone", name, [*BACKBONES, *(f"{library}:NAME" for library in LIBRARIES)])
    return BACKBONES[name]


@lru_cache(maxsize=32)
def _of_library(library: str, model: str) -> Backbone:
    from eman.trainers.backbones import libraries

    small = model.endswith(SMALL) and not libraries.has(library, model)
    name = model.removesuffix(SMALL) if small else model
    libraries.check(library, name)
    given = f"{library}:{model}"
    return Backbone(given, partial(libraries.BUILDERS[library], name, given if small else None))


def _small(width: int, channels: int) -> nn.Module:
    from eman.trainers.backbones.small import SmallResNet

    return SmallResNet(channels, width)


def _resnet(name: str, width: int, small: bool, channels: int) -> nn.Module:
    from eman.trainers.backbones.resnet import build

    return build(name, channels, width=width, small=small)


def _wide(depth: int, width: int, channels: int) -> nn.Module:
    from eman.trainers.backbones.wide import WideResNet

    return WideResNet(channels, depth, width)


#: Torchvision's ResNets: features, and state dict sizes at normal and at twice the width.
_RESNETS = {
    "resnet18": (512, 11_186_132, 44_687_252),
    "resnet34": (512, 21_301_732, 85_119_908),
    "resnet50": (2048, 23_561_205, 94_013_365),
    "resnet101": (2048, 42_605_608, 169_981_928),
}

#: Values that the small stem saves at normal width: 64 kernels of 3x3 instead of 7x7 pixels.
_STEM_DIFFERENCE = 64 * 3 * (7 * 7 - 3 * 3)

register_backbone("small", partial(_small, 16), features=64, values=78_073, norms=("batch",))
register_backbone("small" + WIDE, partial(_small, 32), features=128, values=308_713, norms=("batch",))
register_backbone("wrn-28-2", partial(_wide, 28, 2), features=128, values=1_471_993, norms=("batch",))
for _name, (_features, *_values) in _RESNETS.items():
    for _stem in ("", SMALL):
        for _width, _suffix in ((1, ""), (2, WIDE)):
            register_backbone(
                _name + _stem + _suffix,
                partial(_resnet, _name, _width, bool(_stem)),
                features=_width * _features,
                values=_values[_width - 1] - bool(_stem) * _width * _STEM_DIFFERENCE,
                norms=("batch",),
            )
