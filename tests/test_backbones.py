"""The small network against plain PyTorch."""

import pytest
import torch
from torch import nn

from eman.trainers.backbones import SmallResNet


@pytest.mark.parametrize("size", [28, 27, 9])
def test_shortcuts_are_strided_convolutions(size: int) -> None:
    network = SmallResNet(1).double()
    shortcuts = [module for module in network.modules() if type(module).__name__ == "_Pointwise"]
    assert len(shortcuts) == 2
    for shortcut in shortcuts:
        assert isinstance(shortcut, nn.Conv2d)
        x = torch.randn(3, shortcut.in_channels, size, size, dtype=torch.float64)
        stock = nn.functional.conv2d(x, shortcut.weight, stride=2)
        torch.testing.assert_close(shortcut(x), stock)
