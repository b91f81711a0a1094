"""Wide ResNets for small images (Zagoruyko and Komodakis, 2016), as semi-supervised learning uses them.

They are pre-activation ResNets. Leaky ReLUs, biases of the convolutions, epsilon of the norms and initial weights are
those of USB (microsoft/Semi-supervised-learning, semilearn/nets/wrn/wrn.py), whose norms also have a momentum of 0.001;
here that is the field ``student_proxy_momentum``, 0.999.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers.norm.activated import ActivatedNorm

#: Slope of the leaky ReLUs for negative values, and epsilon of the norms.
SLOPE, EPS = 0.1, 1e-3


class WideResNet(nn.Module):
    """A 3x3 stem and three stages of basic blocks: ``(B, A, H, W) -> (B, 64 width)``.

    Args:
        channels: A, the channels of an image.
        depth: 6 n + 4, for n blocks per stage.
        width: Factor on the channels of the stages, 16, 32 and 64.
    """

    norms_before_relu = ("bn1",)

    def __init__(self, channels: int, depth: int = 28, width: int = 2) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(channels, sizes[0], 3, 1, 1)
        self.stage1 = _stage(sizes[0], sizes[1], blocks, 1)
        self.stage2 = _stage(sizes[1], sizes[2], blocks, 2)
        self.stage3 = _stage(sizes[2], sizes[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(sizes[-1], eps=EPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x_BAHW: Tensor) -> Tensor:
        """Return features ``(B, 64 width)``."""
        x_BDHW = self.stage3(self.stage2(self.stage1(self.conv1(x_BAHW))))
        return norm_leaky_relu(self.bn1, x_BDHW).mean((2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivation(inputs, outputs, stride)
    return nn.Sequential(first, *(PreActivation(outputs, outputs) for _ in range(blocks - 1)))


class PreActivation(nn.Module):
    """Two 3x3 convolutions, each after a norm and a leaky ReLU, and a shortcut (He et al., 2016).

    Where the channels change, the shortcut is a convolution of the first activation, else the block's input.
    """

    norms_before_relu = ("bn1", "bn2")

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn2 = nn.BatchNorm2d(outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.downsample = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Return the block's output; a stride of 2 halves H and W."""
        y_BDHW = norm_leaky_relu(self.bn1, x_BDHW)
        shortcut = x_BDHW if self.downsample is None else self.downsample(y_BDHW)
        y_BDHW = norm_leaky_relu(self.bn2, self.conv1(y_BDHW))
        return shortcut + self.conv2(y_BDHW)  # type: ignore[no-any-return]


def norm_leaky_relu(norm: nn.Module, x_BDHW: Tensor) -> Tensor:
    """Return ``leaky_relu(norm(x))``; a norm with its own activation replaces the leaky ReLU."""
    if isinstance(norm, ActivatedNorm) and norm.activated:
        return norm(x_BDHW)  # type: ignore[no-any-return]
    return F.leaky_relu(norm(x_BDHW), SLOPE, inplace=True)
