"""Backbones: the registry imports no torch, initial weights stay the same, and the small network is plain PyTorch."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from eman.trainers.backbones.registry import BACKBONES, backbone_named
from eman.trainers.backbones.small import Pointwise, SmallResNet
from eman.trainers.backbones.state import recompute_blocks
from eman.trainers.norm.convert import convert_norm

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
    ("wrn-28-2", 3): "465177be8217977d",
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
def test_registered_measures_are_those_of_the_networks(name: str) -> None:
    assert BACKBONES[name].measures() == replace(BACKBONES[name], known=None).measures(3, 64)


def restated_wide_resnet(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """USB's WRN-28-2 in training mode, written out: 12 pre-activation blocks, of which three change the channels."""

    def active(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 0.001).sqrt()
        x = x * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)
        return torch.where(x > 0, x, 0.1 * x)

    def convolved(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        kernel = state[f"{name}.weight"]
        patches = nn.functional.unfold(x, kernel.shape[2:], padding=kernel.shape[2] // 2, stride=stride)
        y = kernel.flatten(1) @ patches + state[f"{name}.bias"].view(-1, 1)
        return y.unflatten(2, (x.shape[2] // stride, -1))

    x = convolved(x, "conv1", 1)
    for stage in (1, 2, 3):
        for block in range(4):
            name, stride = f"stage{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = active(x, f"{name}.bn1")
            shortcut = convolved(y, f"{name}.downsample", stride) if block == 0 else x
            x = shortcut + convolved(active(convolved(y, f"{name}.conv1", stride), f"{name}.bn2"), f"{name}.conv2", 1)
    return active(x, "bn1").mean((2, 3))


def test_the_wide_resnet_is_usbs() -> None:
    network = backbone_named("wrn-28-2").build(3).double()
    classifier = 128 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) + classifier == 1_469_642  # "1.47M"
    for parameter in network.parameters():  # norms, too, whose initial scale and shift are 1 and 0
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    plain = restated_wide_resnet(x, network.state_dict())
    torch.testing.assert_close(network(x), plain, rtol=1e-9, atol=1e-12)
    converted = convert_norm(network, "bn").double().to(memory_format=torch.channels_last)  # by the kernels
    plain = restated_wide_resnet(x, converted.state_dict())  # the norms' weights were rounded to float32
    torch.testing.assert_close(converted(x.to(memory_format=torch.channels_last)), plain, rtol=1e-9, atol=1e-12)
    recompute_blocks(converted)
    torch.testing.assert_close(converted(x), plain, rtol=1e-9, atol=1e-12)


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
