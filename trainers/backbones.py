"""Feature extractors: torchvision's ResNets with a stem for small images, and a small ResNet for CPUs.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet

from eman.platform.errors import UserError, named
from eman.trainers.norm.device_bn import again, norm_relu

#: What the backbone's part of a network's state begins with.
PREFIX = "backbone."


@dataclass(frozen=True)
class Backbone:
    """An entry: how to build the network for images of A channels, and how many features D it gives."""

    features: int
    build: Callable[[int], nn.Module]


class SmallResNet(nn.Module):
    """Three basic blocks after a stem of stride 2: about 78,000 parameters, 64 features at width 16.

    ``(B, A, H, W) -> (B, 4 width)``. Made for 28-pixel images on a CPU core.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            _block(width, width, 1), _block(width, 2 * width, 2), _block(2 * width, 4 * width, 2)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BAHW: Tensor) -> Tensor:
        convolution, norm, _relu = self.stem
        x_BDHW = norm_relu(norm, convolution(x_BAHW))
        return self.pool(self.blocks(x_BDHW))  # type: ignore[no-any-return]


class _Basic(resnet.BasicBlock):  # type: ignore[misc]
    """Torchvision's, with the fused norms."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        shortcut = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        y_BDHW = norm_relu(self.bn1, self.conv1(x_BDHW))
        return norm_relu(self.bn2, self.conv2(y_BDHW), shortcut)


class _Bottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """Torchvision's, with the fused norms."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        shortcut = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        y_BDHW = norm_relu(self.bn1, self.conv1(x_BDHW))
        y_BDHW = norm_relu(self.bn2, self.conv2(y_BDHW))
        return norm_relu(self.bn3, self.conv3(y_BDHW), shortcut)


class _ResNet(resnet.ResNet):  # type: ignore[misc]
    """Torchvision's, with the fused norms."""

    def _forward_impl(self, x_BAHW: Tensor) -> Tensor:
        x_BDHW = self.maxpool(norm_relu(self.bn1, self.conv1(x_BAHW)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_BDHW = layer(x_BDHW)
        return cast("Tensor", self.fc(self.avgpool(x_BDHW).flatten(1)))


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    shortcut = (
        None
        if stride == 1 and inputs == outputs
        else nn.Sequential(_Pointwise(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    )
    block: nn.Module = _Basic(inputs, outputs, stride, shortcut)
    return block


class _Pointwise(nn.Conv2d):
    """A 1 by 1 convolution that drops the pixels it skips beforehand: half the time of the stock one on a CPU."""

    def forward(self, x_BAHW: Tensor) -> Tensor:
        if not x_BAHW.is_contiguous(memory_format=torch.channels_last):
            return nn.functional.conv2d(x_BAHW[:, :, :: self.stride[0], :: self.stride[1]], self.weight)
        x_BHWA = x_BAHW.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]].contiguous()
        return nn.functional.conv2d(x_BHWA.permute(0, 3, 1, 2), self.weight)


class _Wide(_ResNet):
    """Torchvision's ResNet with ``factor`` times the channels in every layer (torchvision's own wide ResNets widen the
    inner convolutions of a bottleneck alone).
    """

    def __init__(self, block: Any, layers: list[int], factor: int) -> None:
        self.factor = factor
        super().__init__(block, layers)
        self.conv1 = nn.Conv2d(3, 64 * factor, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64 * factor)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:  # the first: what comes from the stem
            self.inplanes *= self.factor
        return cast("nn.Sequential", super()._make_layer(block, planes * self.factor, *args, **kwargs))


def _torchvision(block: type[nn.Module], layers: list[int], *, width: int, small: bool) -> Callable[[int], nn.Module]:
    """Torchvision's ResNet without its classifier, ``width`` times as wide in all layers, its output included; for
    small images with a 3x3 stem of stride 1 and no max pooling.
    """

    def build(channels: int) -> nn.Module:
        network: Any = _ResNet(cast("Any", block), layers) if width == 1 else _Wide(block, layers, width)
        if small:
            network.conv1 = nn.Conv2d(channels, 64 * width, 3, 1, 1, bias=False)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = nn.Conv2d(channels, 64 * width, 7, 2, 3, bias=False)
        network.fc = nn.Identity()
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        assert isinstance(network, nn.Module)
        return network

    return build


_LAYERS: dict[str, tuple[type[nn.Module], list[int], int]] = {
    "resnet18": (_Basic, [2, 2, 2, 2], 512),
    "resnet34": (_Basic, [3, 4, 6, 3], 512),
    "resnet50": (_Bottleneck, [3, 4, 6, 3], 2048),
    "resnet101": (_Bottleneck, [3, 4, 23, 3], 2048),
}

#: What the name of a backbone with twice the channels in every layer ends with ("2x width" in Table 2).
WIDE = "-2x"

#: Backbones by name; ``-small`` has the stem for small images.
BACKBONES = {
    "small": Backbone(64, SmallResNet),
    "small" + WIDE: Backbone(128, lambda channels: SmallResNet(channels, 32)),
    **{
        name + stem + suffix: Backbone(width * features, _torchvision(block, layers, width=width, small=small))
        for name, (block, layers, features) in _LAYERS.items()
        for small, stem in ((False, ""), (True, "-small"))
        for width, suffix in ((1, ""), (2, WIDE))
    },
}


def backbone_named(name: str) -> Backbone:
    """The entry of that name; raises :class:`~eman.platform.errors.UserError` if there is none."""
    return named("backbone", name, BACKBONES)


class _Recomputed(nn.Sequential):
    """Blocks that keep only what goes into them and compute the rest again in the backward pass."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x_BDHW)  # type: ignore[no-untyped-call, no-any-return]
        for block in self:
            contexts = partial(_contexts, block)
            x_BDHW = checkpoint(block, x_BDHW, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return x_BDHW


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around a block's pass, and around the same pass computed again."""
    return nullcontext(), again(block)


def recompute_blocks(network: nn.Module) -> None:
    """Puts activation checkpointing around every residual block of a backbone, whose state keeps its names."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential) and isinstance(child[0], resnet.BasicBlock | resnet.Bottleneck):
            setattr(network, name, _Recomputed(*child))


def load_backbone(network: nn.Module, state: dict[str, Any], name: str, path: Path) -> None:
    """Loads the backbone's part of a network's state.

    Args:
        network: The backbone.
        state: State of a whole network, ``backbone`` and heads.
        name: Name of the backbone, for the error.
        path: Where the state comes from, for the error.

    Raises:
        UserError: The state is another backbone's.
    """
    try:
        network.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)})
    except RuntimeError as error:
        difference = " ".join(str(error).split())[:160]
        raise UserError(f"checkpoint {path} does not hold a backbone {name!r} as built here: {difference}") from None
