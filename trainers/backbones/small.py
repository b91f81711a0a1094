"""A small ResNet for CPUs, of basic blocks with fused norms, without torchvision.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

import torch
from torch import Tensor, nn

from eman.trainers.norm.device_bn import norm_relu


class SmallResNet(nn.Module):
    """A stem of stride 2 and three basic blocks: ``(B, A, H, W) -> (B, 4 width)``, for 28-pixel images on a CPU core.

    At width 16 it has about 78,000 parameters.

    Args:
        channels: A, the channels of an image.
        width: Channels of the stem and the first block.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            BasicBlock(width, width), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 4 * width, 2)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BAHW: Tensor) -> Tensor:
        convolution, norm, _relu = self.stem
        x_BDHW = norm_relu(norm, convolution(x_BAHW))
        return self.pool(self.blocks(x_BDHW))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    norms_before_relu = ("bn1",)

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        shortcut = (  # built first: the order of construction decides the initial weights
            None
            if stride == 1 and inputs == outputs
            else nn.Sequential(Pointwise(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, x_BDHW: Tensor) -> Tensor:
        shortcut = x_BDHW if self.downsample is None else self.downsample(x_BDHW)
        y_BDHW = norm_relu(self.bn1, self.conv1(x_BDHW))
        return norm_relu(self.bn2, self.conv2(y_BDHW), shortcut)


class Pointwise(nn.Conv2d):
    """A strided 1x1 convolution that first drops the pixels it skips: half the time of PyTorch's on a CPU."""

    def forward(self, x_BAHW: Tensor) -> Tensor:
        if not x_BAHW.is_contiguous(memory_format=torch.channels_last):
            return nn.functional.conv2d(x_BAHW[:, :, :: self.stride[0], :: self.stride[1]], self.weight)
        x_BHWA = x_BAHW.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]].contiguous()
        return nn.functional.conv2d(x_BHWA.permute(0, 3, 1, 2), self.weight)
