"""Backbones of timm, of torchvision and of one's own."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from eman.cli import main
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.backbones.registry import BACKBONES, backbone_named, register_backbone
from eman.trainers.loop import fit
from eman.trainers.norm.convert import convert_norm

VIT = "timm:vit_tiny_patch16_224"


def plain(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Register backbones for the length of a test."""
    before = dict(BACKBONES)
    yield register_backbone
    BACKBONES.clear()
    BACKBONES.update(before)


@pytest.mark.parametrize(
    ("name", "channels", "size", "features"),
    [
        ("torchvision:resnet34", 3, 64, 512),
        ("torchvision:resnet34-small", 1, 16, 512),
        ("torchvision:regnet_y_400mf", 1, 64, 440),
        ("torchvision:efficientnet_b0", 3, 64, 1280),
        ("torchvision:vgg11_bn", 3, 64, 4096),
        ("torchvision:densenet121", 3, 64, 1024),
        ("torchvision:mobilenet_v3_small", 3, 64, 1024),
        ("torchvision:convnext_tiny", 3, 64, 768),
        ("torchvision:vit_b_16", 3, 32, 768),
        ("timm:resnet18", 1, 64, 512),
        ("timm:resnet18-small", 3, 16, 512),
        ("timm:mobilenetv3_small_050", 3, 64, 1024),
        (VIT, 1, 32, 192),
    ],
)
def test_networks_of_libraries_by_name(name: str, channels: int, size: int, features: int) -> None:
    assert backbone_named(name).measures(channels, size).features == features


def test_torchvisions_resnet_is_the_builtin_one() -> None:
    for suffix in ("", "-small"):
        ours, theirs = (backbone_named(f"{prefix}resnet18{suffix}").network(3) for prefix in ("", "torchvision:"))
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(theirs(x), ours(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1", r"timm has no network 'resnet1'; the closest names are .*resnet1"),
        ("torchvision:resnet35", r"torchvision has no network 'resnet35'; the closest names are .*resnet34"),
        ("timm:xyzzy0", r"timm has no network 'xyzzy0'\."),
        ("resnet19", r"unknown backbone 'resnet19'; did you mean 'resnet18'\? Allowed: .*timm:NAME, torchvision:NAME"),
        ("keras:resnet", r"unknown backbone 'keras:resnet'"),
        ("torchvision:vgg11_bn-small", r"has no ResNet's stem .* leave -small out"),
        ("torchvision:squeezenet1_0", r"does not end in a linear classifier"),
        ("torchvision:vgg11", r"fails \(RuntimeError: .*too small\); give another image_size or backbone"),
        ("torchvision:inception_v3", r"backbone 'torchvision:inception_v3' on images of 1 x 16 x 16 fails"),
        (VIT, r"has no batch norms \(its norms are ln\), and student_norm 'bn' .*--scheme ln"),
    ],
)
def test_a_backbone_that_does_not_work_is_refused_before_anything_runs(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        SMOKE.run("moco", "eman", 0, {"backbone": name})
    grid = ["sweep", "grid", "--method", "moco", "--scheme", "eman", "--profile", "smoke", "--dry-run"]
    assert main([*grid, "--set", f"backbone={name}"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert name in line


def test_a_missing_library_is_one_line() -> None:
    code = """
import sys
sys.modules["timm"] = None
from eman.cli import main
sys.exit(main(["train", "moco", "--set", "backbone=timm:resnet18"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "timm cannot be imported" in line
    assert "pip install timm" in line


@pytest.mark.parametrize(
    ("method", "scheme", "name"),
    [("byol", "ln", VIT), ("moco", "ln", VIT), ("moco", "eman", "torchvision:mobilenet_v3_small")],
)
def test_networks_of_libraries_train(method: str, scheme: str, name: str) -> None:
    spec = SMOKE.run(method, scheme, 0, {"backbone": name, "epochs": 1, "images": 128})
    result = fit(spec, Workspace.from_environment())
    assert 0 < result.metrics["train/loss"] < 20
    assert result.metrics["train/feature_std"] > 0


def test_plans_know_the_size_of_a_network_from_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "grid", "--method", "moco", "--scheme", "eman", "--profile", "smoke", "--set"]
    totals = []
    for name in ("resnet18", "torchvision:resnet18"):
        assert main([*command, f"backbone={name}"]) == 0
        totals.append(re.findall(r"[\d.]+ GiB of networks and features", capsys.readouterr().out))
    # The built-in one's size is that for three channels.
    assert totals == [["0.174 GiB of networks and features"], ["0.173 GiB of networks and features"]]


def test_a_backbone_of_ones_own_trains(register: Callable[..., None]) -> None:
    register("mine", plain)
    spec = SMOKE.run("moco", "eman", 0, {"backbone": "mine", "epochs": 1})
    assert spec.backbone_measures.features == 8
    assert fit(spec, Workspace.from_environment()).metrics["train/loss"] > 0


def test_a_version_is_part_of_the_key_from_the_second_on(register: Callable[..., None]) -> None:
    def key(version: int) -> str:
        BACKBONES.pop("mine", None)
        register("mine", plain, version=version)
        return SMOKE.run("moco", "eman", 0, {"backbone": "mine"}).key

    assert key(1) != key(2) != key(3)
    assert key(2) == key(2)


def test_a_builder_may_ask_for_the_size_of_images(register: Callable[..., None]) -> None:
    sizes = []

    def build(channels: int, image_size: int) -> nn.Module:
        sizes.append((channels, image_size))
        return plain(channels)

    register("mine", build)
    SMOKE.run("moco", "eman", 0, {"backbone": "mine"})
    assert set(sizes) == {(1, 16)}


def test_measuring_draws_from_no_generator(register: Callable[..., None]) -> None:
    def build(channels: int) -> nn.Module:
        float(torch.rand(1))  # fails on the meta device, so that the network is built on the CPU
        return plain(channels)

    register("mine", build)
    before = torch.get_rng_state()
    backbone_named("mine").measures(3, 17)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (
            lambda channels: nn.Conv2d(channels, 8, 3),
            {},
            r"gives \(2, 8, 14, 14\) for 2 images, and must give",
        ),
        (plain, {"features": 9}, r"gives 8 features, and is registered with features=9"),
        (lambda channels: plain(channels + 1), {}, r"fails \(RuntimeError: "),
        (lambda channels: 3, {}, r"returns int, not an nn.Module"),
        (lambda channels: nn.Sequential(plain(channels), nn.Dropout(0.1)), {}, r"has Dropout of rate 0.1 at 1"),
        (lambda channels: convert_norm(plain(channels), "ln"), {}, r"has no batch norms \(its norms are ln\)"),
        (lambda channels: nn.Sequential(nn.Flatten(), nn.Linear(256, 8)), {}, r"\(it has no norms\).* give a backbone"),
    ],
)
def test_what_a_build_returns_is_checked(
    build: Any, options: dict[str, Any], message: str, register: Callable[..., None]
) -> None:
    register("mine", build, **options)
    with pytest.raises(UserError, match=message):
        SMOKE.run("moco", "eman", 0, {"backbone": "mine"})


@pytest.mark.parametrize(
    ("name", "build", "version", "message"),
    [
        ("small", plain, 1, "already registered by eman"),
        ("timm:resnet18", plain, 1, "give a name of up to 64 letters"),
        ("", plain, 1, "give a name of up to 64 letters"),
        ("mine", 3, 1, "give a function"),
        ("mine", plain, 0, "give 1 or more"),
    ],
)
def test_registrations_are_checked(
    name: str, build: Any, version: int, message: str, register: Callable[..., None]
) -> None:
    with pytest.raises(UserError, match=message):
        register(name, build, version=version)
