"""Backbones: the registry imports no torch, initial weights stay the same, and the small network is plain PyTorch."""

import hashlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from eman.trainers.backbones.registry import BACKBONES, backbone_named
from eman.trainers.backbones.small import Pointwise, SmallResNet

#: SHA-256 of the initial weights at seed 0, by name and channels, as every published result had them.
INITIAL = {
    ("small", 1): "7bb3496915763a8c",
    ("small", 3): "49d16a7a9f4bb44c",
    ("small-2x", 1): "f9d38129904e65c8",
    ("small-2x", 3): "f8f321e1fc5e5f83",
    ("resnet18", 3): "bd26627cf3434b89",
    ("resnet18-small", 1): "9227c65b7132f794",
    ("resnet18-small", 3): "5351f6ddbb9e26dd",
    ("resnet18-2x", 3): "34f5221a4859dbf1",
    ("resnet34-small", 1): "d26086182eb85850",
    ("resnet50", 3): "791f7ab2bf003fa7",
}


@pytest.mark.parametrize("size", [28, 27, 9])
def test_shortcuts_are_strided_convolutions(size: int) -> None:
    network = SmallResNet(1).double()
    shortcuts = [module for module in network.modules() if isinstance(module, Pointwise)]
    assert len(shortcuts) == 2
    for shortcut in shortcuts:
        x = torch.randn(3, shortcut.in_channels, size, size, dtype=torch.float64)
        stock = nn.functional.conv2d(x, shortcut.weight, stride=2)
        torch.testing.assert_close(shortcut(x), stock)


@pytest.mark.parametrize(("name", "channels"), INITIAL)
def test_initial_weights_stay(name: str, channels: int) -> None:
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for key, value in backbone_named(name).build(channels).state_dict().items():
        digest.update(key.encode())
        digest.update(value.numpy().tobytes())
    assert digest.hexdigest()[:16] == INITIAL[name, channels]


@pytest.mark.parametrize("name", BACKBONES)
def test_widths_and_sizes_are_those_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        network = BACKBONES[name].build(3).eval()
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, BACKBONES[name].features)
    assert sum(value.numel() for value in network.state_dict().values()) == BACKBONES[name].values


def test_the_registry_imports_no_torch_and_the_small_network_no_torchvision() -> None:
    code = """
import sys
from eman.trainers.backbones.registry import backbone_named
entry = backbone_named("small")
assert "torch" not in sys.modules
entry.build(1)
assert not {"torchvision", "torch._dynamo"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
