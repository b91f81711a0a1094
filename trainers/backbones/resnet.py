"""Torchvision's ResNets with fused norms, with a stem for small images, and with wider layers.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

from typing import Any, cast

from torch import Tensor, nn
from torchvision.models import resnet

from eman.trainers.norm.device_bn import norm_relu


class _Basic(resnet.BasicBlock):  # type: ignore[misc]
    """Torchvision's basic block with fused norms."""

    norms_before_relu = ("bn1",)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        shortcut = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        y_BDHW = norm_relu(self.bn1, self.conv1(x_BDHW))
        return norm_relu(self.bn2, self.conv2(y_BDHW), shortcut)


class _Bottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """Torchvision's bottleneck with fused norms."""

    norms_before_relu = ("bn1", "bn2")

    def forward(self, x_BDHW: Tensor) -> Tensor:
        shortcut = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        y_BDHW = norm_relu(self.bn1, self.conv1(x_BDHW))
        y_BDHW = norm_relu(self.bn2, self.conv2(y_BDHW))
        return norm_relu(self.bn3, self.conv3(y_BDHW), shortcut)


class _ResNet(resnet.ResNet):  # type: ignore[misc]
    """Torchvision's ResNet with fused norms."""

    norms_before_relu = ("bn1",)

    def _forward_impl(self, x_BAHW: Tensor) -> Tensor:
        x_BDHW = self.maxpool(norm_relu(self.bn1, self.conv1(x_BAHW)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_BDHW = layer(x_BDHW)
        return cast("Tensor", self.fc(self.avgpool(x_BDHW).flatten(1)))


class _Wide(_ResNet):
    """Torchvision's ResNet with ``factor`` times the channels in every layer.

    Torchvision's own wide ResNets only widen the inner convolutions of a bottleneck.
    """

    def __init__(self, block: Any, layers: list[int], factor: int) -> None:
        self.factor = factor
        super().__init__(block, layers)
        self.conv1 = nn.Conv2d(3, 64 * factor, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64 * factor)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:  # the first layer, which follows the stem
            self.inplanes *= self.factor
        return cast("nn.Sequential", super()._make_layer(block, planes * self.factor, *args, **kwargs))


_LAYERS: dict[str, tuple[Any, list[int]]] = {
    "resnet18": (_Basic, [2, 2, 2, 2]),
    "resnet34": (_Basic, [3, 4, 6, 3]),
    "resnet50": (_Bottleneck, [3, 4, 6, 3]),
    "resnet101": (_Bottleneck, [3, 4, 23, 3]),
}


def build(name: str, channels: int, *, width: int = 1, small: bool = False) -> nn.Module:
    """Build a ResNet without its classifier.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        channels: A, the channels of an image.
        width: Factor on the channels of every layer, including the output.
        small: Use a 3x3 stem of stride 1 without max pooling, for small images.

    Returns:
        A network from ``(B, A, H, W)`` to ``(B, D)``.
    """
    block, layers = _LAYERS[name]
    network: Any = _ResNet(block, layers) if width == 1 else _Wide(block, layers, width)
    if small:
        network.conv1 = nn.Conv2d(channels, 64 * width, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64 * width, 7, 2, 3, bias=False)
    network.fc = nn.Identity()
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return cast("nn.Module", network)
