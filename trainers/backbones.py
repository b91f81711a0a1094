"""Feature extractors: torchvision's ResNets with a stem for small images, and a small ResNet for CPUs.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet

from eman.platform.errors import named


@dataclass(frozen=True)
class Backbone:
    """An entry: how to build the network for images of A channels, and how many features D it gives."""

    features: int
    build: Callable[[int], nn.Module]


class SmallResNet(nn.Module):
    """Three basic blocks after a stem of stride 2: about 78,000 parameters, 64 features.

    ``(B, A, H, W) -> (B, 64)``. Made for 28-pixel images on a CPU core.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(_block(16, 16, 1), _block(16, 32, 2), _block(32, 64, 2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BAHW: Tensor) -> Tensor:
        return self.pool(self.blocks(self.stem(x_BAHW)))  # type: ignore[no-any-return]


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    shortcut = (
        None
        if stride == 1 and inputs == outputs
        else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    )
    block: nn.Module = resnet.BasicBlock(inputs, outputs, stride, shortcut)
    return block


def _torchvision(name: str, *, small_images: bool) -> Callable[[int], nn.Module]:
    """Torchvision's ResNet without its classifier; for small images with a 3x3 stem of stride 1 and no max pooling."""

    def build(channels: int) -> nn.Module:
        network: Any = getattr(resnet, name)()
        if small_images:
            network.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        network.fc = nn.Identity()
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        assert isinstance(network, nn.Module)
        return network

    return build


BACKBONES = {
    "small": Backbone(64, SmallResNet),
    **{
        name + suffix: Backbone(features, _torchvision(name, small_images=small))
        for name, features in (("resnet18", 512), ("resnet34", 512), ("resnet50", 2048))
        for suffix, small in (("", False), ("-small", True))
    },
}


def backbone_named(name: str) -> Backbone:
    """The entry of that name; raises :class:`~eman.platform.errors.UserError` if there is none."""
    return named("backbone", name, BACKBONES)
