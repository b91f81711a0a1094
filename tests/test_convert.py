"""`convert_norm` and `Teacher` over networks that others have built."""

import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from eman.platform.errors import UserError
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import DeviceBatchNorm, device_norms
from eman.trainers.norm.teacher import Teacher

IMAGES = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, nn.PReLU])
def test_timms_norm_keeps_its_activation_and_its_names(act: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Conv2d(6, 16, 3), BatchNormAct2d(16, act_layer=act))
    converted = convert_norm(copy.deepcopy(network), "bn")
    assert isinstance(converted[1], DeviceBatchNorm)
    assert converted.state_dict().keys() == network.state_dict().keys()
    for training in (True, False):
        torch.testing.assert_close(converted.train(training)(IMAGES), network.train(training)(IMAGES))
    torch.testing.assert_close(converted.state_dict(), network.state_dict())
    for kind in ("gn", "ln", "gn-ws"):
        y = convert_norm(copy.deepcopy(network), kind)(IMAGES)
        assert (y < 0).any() == (act is not nn.ReLU)


def test_a_norm_with_its_own_activation_replaces_timms_relu_only() -> None:
    for act, activated in ((nn.ReLU, True), (nn.SiLU, False)):
        network = convert_norm(nn.Sequential(nn.Conv2d(6, 16, 3), BatchNormAct2d(16, act_layer=act)), "evonorm-s0")
        assert network[1].activated is activated
        expected = network[0](IMAGES)
        torch.testing.assert_close(network(IMAGES), network[1](expected))
        assert (network(IMAGES) < -0.4).any() is not activated


@pytest.mark.parametrize("scheme", ["eman", "bn", "teacher-pn-0.9", "momentum2"])
def test_a_teacher_of_such_a_network_follows_it(scheme: str) -> None:
    torch.manual_seed(0)
    student = convert_norm(nn.Sequential(nn.Conv2d(6, 16, 3), BatchNormAct2d(16, act_layer=nn.PReLU)), "bn")
    teacher = Teacher(student, scheme, momentum=0.0, steps=4)
    student(IMAGES)
    with torch.no_grad():
        student[1].act.weight.fill_(0.5)
    teacher.update(student)
    y = teacher(IMAGES)
    assert (y < 0).any()
    if scheme == "eman":
        torch.testing.assert_close(y, student.eval()(IMAGES))


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        (nn.BatchNorm1d(6), torch.randn(8, 6)),
        (nn.BatchNorm1d(6), torch.randn(8, 6, 5)),
        (nn.BatchNorm3d(6), torch.randn(8, 6, 3, 4, 5)),
        (nn.BatchNorm2d(6, affine=False), IMAGES),
        (nn.SyncBatchNorm(6), None),
    ],
)
def test_every_batch_norm_of_pytorch_stays_what_it_is(norm: nn.Module, x: torch.Tensor | None) -> None:
    converted = convert_norm(copy.deepcopy(norm), "bn")
    assert converted.state_dict().keys() == norm.state_dict().keys()
    assert len(list(converted.parameters())) == len(list(norm.parameters()))
    if x is not None:  # PyTorch's SyncBatchNorm needs a GPU
        torch.testing.assert_close(converted(x), norm(x))
        torch.testing.assert_close(converted.eval()(x), norm.eval()(x))


@pytest.mark.parametrize("kind", ["bn", "gn", "frn", "evonorm-s0"])
def test_a_norm_without_weights_gets_none(kind: str) -> None:
    network = convert_norm(nn.Sequential(nn.Conv2d(6, 16, 3), nn.BatchNorm2d(16, affine=False)), kind)
    assert not list(network[1].parameters())
    network(IMAGES).sum().backward()


@pytest.mark.parametrize("kind", ["frn", "evonorm-s0"])
def test_norms_for_images_are_refused_for_volumes(kind: str) -> None:
    with pytest.raises(UserError, match="is for images, and the network has a BatchNorm3d"):
        convert_norm(nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8)), kind)
    convert_norm(nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8)), "gn")(torch.randn(2, 3, 4, 4, 4))


class _Scaled(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FrozenBatchNorm2d(6), "FrozenBatchNorm2d normalizes with fixed statistics"),
        (lambda: FrozenBatchNormAct2d(6), "FrozenBatchNormAct2d normalizes with fixed statistics"),
        (nn.LazyBatchNorm2d, "LazyBatchNorm2d does not know its channels yet; run the network once"),
        (nn.LazyBatchNorm1d, "LazyBatchNorm1d does not know its channels yet"),
        (lambda: nn.BatchNorm2d(6, track_running_stats=False), "keeps no running statistics"),
        (lambda: nn.InstanceNorm2d(6, track_running_stats=True), "keeps running statistics, which no scheme moves"),
        (lambda: _Scaled(6), "_Scaled derives from batch norm and computes in a way of its own"),
    ],
)
def test_norms_that_no_scheme_can_replace_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert_norm(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(build())), "bn")


def test_a_lazy_norm_is_converted_once_it_knows_its_channels() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    network(IMAGES)
    assert isinstance(convert_norm(network, "bn")[1], DeviceBatchNorm)


def test_other_norms_stay() -> None:
    norms = [nn.InstanceNorm2d(6), nn.GroupNorm(2, 6), nn.LayerNorm(5), nn.LocalResponseNorm(2)]
    assert list(convert_norm(nn.Sequential(*norms), "bn")) == norms


class _Twice(nn.Module):
    """One norm under two names, in a block that itself stands in two places; one ReLU after each."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.first = nn.BatchNorm2d(6)
        self.again = self.first
        self.block = nn.Sequential(nn.Conv2d(6, 6, 1), self.first, relu, nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), relu)
        self.same = nn.ModuleDict({"block": self.block})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same["block"](self.block(self.again(self.first(x))))


@pytest.mark.parametrize("kind", ["bn", "gn", "evonorm-s0"])
def test_shared_norms_and_blocks_stay_shared(kind: str) -> None:
    network = convert_norm(_Twice(), kind)
    assert network.first is network.again is network.block[1]
    assert not any(type(layer) is nn.BatchNorm2d for layer in network.modules())
    assert len(device_norms(network)) == (2 if kind == "bn" else 0)
    assert network(IMAGES).isfinite().all()


def test_shared_norms_compute_as_before_and_stay_shared_in_every_teacher() -> None:
    plain = _Twice()
    student = convert_norm(copy.deepcopy(plain), "bn")
    torch.testing.assert_close(student(IMAGES), plain(IMAGES))
    for scheme in ("eman", "momentum2"):
        teacher = Teacher(student, scheme, steps=3)
        network = teacher.network
        assert isinstance(network, _Twice)
        assert network.first is network.again is network.block[1]
        teacher(IMAGES)
        teacher.update(student)
