"""Normalization over devices against plain float64 references."""

import pytest
import torch
from timm.layers import EvoNorm2dS0, FilterResponseNormTlu2d, StdConv2d
from torch import nn

from eman.evaluation.results import paper
from eman.platform.errors import UserError
from eman.trainers.accel import norms
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.norm.activated import ActivatedNorm, EvoNorm, FilterResponseNorm
from eman.trainers.norm.convert import convert_norm, groups_for
from eman.trainers.norm.device_bn import DeviceBatchNorm, in_one_pass, norm_relu
from eman.trainers.norm.schemes import EACH_CHANNEL, SCHEMES, STUDENT_NORMS
from eman.trainers.norm.statistics import batch_statistics
from eman.trainers.norm.weights import fold_standardization


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Eqs. (2) and (3) in float64."""
    axes = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    x = x.double()
    mean = x.mean(axes)
    var = ((x - mean.view(shape)) ** 2).mean(axes)
    return weight.double().view(shape) * (x - mean.view(shape)) / torch.sqrt(
        var.view(shape) + eps
    ) + bias.double().view(shape)


def layer(**options: object) -> DeviceBatchNorm:
    made = DeviceBatchNorm(5, **options)  # type: ignore[arg-type]
    nn.init.uniform_(made.weight, 0.5, 2)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("shape", [(16, 5, 4, 4), (16, 5)])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_devices_are_separately_normalized_chunks(shape: tuple[int, ...], devices: int) -> None:
    bn, x = layer(devices=devices), torch.randn(shape) * 3 + 1
    y = bn(x)
    for device in range(devices):
        expected = reference(x[device::devices], bn.weight, bn.bias)
        torch.testing.assert_close(y[device::devices].double(), expected, atol=1e-5, rtol=1e-5)


def test_sync_ignores_devices() -> None:
    bn, x = layer(devices=8, sync=True), torch.randn(16, 5, 3, 3)
    torch.testing.assert_close(bn(x).double(), reference(x, bn.weight, bn.bias), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_separate_layers() -> None:
    bn, x = layer(devices=4), torch.randn(16, 5, 3, 3, requires_grad=True)
    target = torch.randn(16, 5, 3, 3)
    (bn(x) * target).sum().backward()
    assert x.grad is not None
    weight = bn.weight.detach().double().requires_grad_()
    bias = bn.bias.detach().double().requires_grad_()
    x64 = x.detach().double().requires_grad_()
    loss = sum((reference(x64[d::4], weight, bias) * target[d::4]).sum() for d in range(4))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bn.weight.grad.double(), weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bn.bias.grad.double(), bias.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("source", "alpha"), [("device0", 0.9), ("mean", 0.9), ("device0", 0.999)])
def test_running_statistics_follow_equation_4(source: str, alpha: float) -> None:
    bn = layer(devices=4, device_statistics=source, momentum=1 - alpha)
    mean, var = torch.zeros(5).double(), torch.ones(5).double()
    for _ in range(3):
        x = torch.randn(16, 5, 2, 2) * 2 + 1
        bn(x)
        chunks = [x[d::4].double() for d in ([0] if source == "device0" else range(4))]
        mean = alpha * mean + (1 - alpha) * torch.stack([c.mean((0, 2, 3)) for c in chunks]).mean(0)
        var = alpha * var + (1 - alpha) * torch.stack([c.var((0, 2, 3)) for c in chunks]).mean(0)
    torch.testing.assert_close(bn.running_mean.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bn.running_var.double(), var, atol=1e-6, rtol=1e-5)
    assert bn.num_batches_tracked == 3


@pytest.mark.parametrize("kind", ["bn", "syncbn", "gn", "gn-ws"])
@pytest.mark.parametrize("source", ["device0", "mean"])
def test_two_passes_in_one_are_two_passes(kind: str, source: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(1)
        plain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3))
        return convert_norm(plain, kind, devices=4, device_statistics=source).double()

    together, apart = build(), build()
    inputs = [torch.randn(16, 2, 7, 7, dtype=torch.float64) * (1 + n) for n in range(3)]
    ys, expected = in_one_pass(together, inputs), [apart(x) for x in inputs]
    for y, other in zip(ys, expected, strict=True):
        torch.testing.assert_close(y, other)
    (ys[0].sum() + (ys[2] ** 2).sum()).backward()
    (expected[0].sum() + (expected[2] ** 2).sum()).backward()
    for (name, mine), theirs in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
    for (name, mine), theirs in zip(together.named_buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def test_one_device_is_pytorchs_batch_norm() -> None:
    stock, ours = nn.BatchNorm2d(5), DeviceBatchNorm(5)
    x = torch.randn(8, 5, 4, 4)
    torch.testing.assert_close(ours(x), stock(x), atol=0, rtol=0)
    torch.testing.assert_close(ours.running_var, stock.running_var)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x), atol=0, rtol=0)


def test_momentum_none_averages_batches() -> None:
    bn, batches = layer(momentum=None), [torch.randn(8, 5) for _ in range(4)]
    bn.reset_running_stats()
    for x in batches:
        bn(x)
    torch.testing.assert_close(bn.running_mean, torch.stack([x.mean(0) for x in batches]).mean(0))


@pytest.mark.parametrize("source", ["device0", "mean"])
@pytest.mark.parametrize("shape", [(16, 5, 3, 3), (16, 5)])
def test_batch_statistics_are_what_training_would_keep(source: str, shape: tuple[int, ...]) -> None:
    bn, x = layer(devices=4, device_statistics=source, momentum=1.0), torch.randn(shape)
    mean, var = batch_statistics(bn, x)
    bn(x)
    torch.testing.assert_close(mean, bn.running_mean)
    torch.testing.assert_close(var, bn.running_var)


def test_a_batch_that_devices_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="10 samples cannot be spread evenly over 4 devices"):
        layer(devices=4)(torch.randn(10, 5))


@pytest.mark.parametrize("kind", [name for name, norm in STUDENT_NORMS.items() if not norm.keeps_statistics])
def test_norms_of_one_sample_ignore_the_batch(kind: str) -> None:
    plain = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    network = convert_norm(plain, kind)
    x = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(network(x)[:2], network(x[:2]))
    axes = {"in": (2, 3), "ln": (1, 2, 3)}.get(kind)
    if axes:
        assert network(x).mean(axes).abs().max() < 1e-5


def test_groups() -> None:
    assert [groups_for(32, c, vectors=False) for c in (2, 16, 64, 256, 2048)] == [1, 8, 32, 32, 32]
    assert groups_for(EACH_CHANNEL, 16, vectors=False) == 16
    assert groups_for(EACH_CHANNEL, 16, vectors=True) == 1
    assert groups_for(1, 16, vectors=False) == 1


def by_groups(x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each image's groups of channels, for each channel, in float64."""
    parts = x.double().unflatten(1, (groups, -1)).flatten(2)
    mean, var = parts.mean(2), ((parts - parts.mean(2, keepdim=True)) ** 2).mean(2)
    return tuple(s.repeat_interleave(x.shape[1] // groups, 1)[..., None, None] for s in (mean, var))  # type: ignore[return-value]


def randomized(network: nn.Module) -> nn.Module:
    """Give every parameter random values."""
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("activated", [True, False])
def test_filter_response_norm_is_its_equation(activated: bool) -> None:
    norm, x = randomized(FilterResponseNorm(16, activated=activated)), torch.randn(4, 16, 5, 5) * 3 + 1
    scale, shift = (p.double()[:, None, None] for p in (norm.weight, norm.bias))
    expected = scale * x.double() / torch.sqrt((x.double() ** 2).mean((2, 3), keepdim=True) + 1e-5) + shift
    if activated:
        expected = torch.maximum(expected, norm.tau.double()[:, None, None])
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-5, rtol=1e-5)
    theirs = FilterResponseNormTlu2d(16, apply_act=activated)
    theirs.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), theirs(x))


@pytest.mark.parametrize("activated", [True, False])
def test_evonorm_s0_is_its_equation(activated: bool) -> None:
    norm, x = randomized(EvoNorm(16, 4, activated=activated)), torch.randn(4, 16, 5, 5) * 3 + 1
    scale, shift = (p.double()[:, None, None] for p in (norm.weight, norm.bias))
    numerator = x.double() * (torch.sigmoid(norm.v.double()[:, None, None] * x.double()) if activated else 1)
    expected = scale * numerator / torch.sqrt(by_groups(x, 4)[1] + 1e-5) + shift
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-5, rtol=1e-5)
    if activated:
        theirs = EvoNorm2dS0(16, groups=4)
        theirs.load_state_dict(norm.state_dict())
        torch.testing.assert_close(norm(x), theirs(x))


def test_group_norm_with_weight_standardization_is_its_equation() -> None:
    network = randomized(convert_norm(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), "gn-ws"))
    x, raw = torch.randn(4, 3, 8, 8), network.state_dict()["0.weight"].double()
    flat = raw.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / torch.sqrt(flat.var(1, correction=0, keepdim=True) + 1e-6)
    y = nn.functional.conv2d(x.double(), flat.view_as(raw), network[0].bias.double())
    mean, var = by_groups(y, 8)
    scale, shift = (p.double()[:, None, None] for p in (network[1].weight, network[1].bias))
    expected = scale * (y - mean) / torch.sqrt(var + 1e-5) + shift
    torch.testing.assert_close(network(x).double(), expected, atol=1e-4, rtol=1e-4)
    theirs = StdConv2d(3, 16, 3, padding=0, bias=True)
    theirs.load_state_dict(network[0].state_dict())
    torch.testing.assert_close(network[0](x), theirs(x), atol=1e-5, rtol=1e-5)


def test_standardized_weights_are_trained_raw_and_can_be_folded() -> None:
    network = convert_norm(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), "gn-ws")
    [weight] = [p for p in network.parameters() if p.dim() == 4]
    assert weight is network.state_dict(keep_vars=True)["0.weight"]
    x = torch.randn(4, 3, 8, 8)
    network(x).square().sum().backward()
    gradient = weight.grad.flatten(1)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient.sum(1), torch.zeros(16), atol=1e-4, rtol=0)  # a shift changes nothing
    expected = network(x).detach()
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(8, 16))
    fold_standardization(network)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(plain(x), expected)
    assert type(network[0]) is nn.Conv2d


@pytest.mark.parametrize("kind", ["frn", "evonorm-s0"])
def test_a_norm_with_activation_replaces_the_relu_that_follows_it(kind: str) -> None:
    network = convert_norm(backbone_named("resnet18").build(3), kind)
    norms = {name: layer for name, layer in network.named_modules() if isinstance(layer, ActivatedNorm)}
    assert {name for name, norm in norms.items() if norm.activated} == {name for name in norms if "bn1" in name}
    x = torch.randn(2, 64, 4, 4)
    alone = norms["layer1.0.bn1"]
    torch.testing.assert_close(norm_relu(alone, x), alone(x))
    torch.testing.assert_close(norm_relu(alone, x, x), torch.relu(alone(x) + x))
    sequence = convert_norm(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()), kind)
    y = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(sequence(y), sequence[1](sequence[0](y)))
    assert sequence[1].activated
    assert isinstance(convert_norm(nn.BatchNorm1d(8), kind), nn.GroupNorm)


def test_conversion_keeps_weights_and_refuses_unknown_norms() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4))
    nn.init.uniform_(network[0].weight)
    weight = network[0].weight.clone()
    torch.testing.assert_close(convert_norm(network, "bn", devices=2)[0].weight, weight)
    with pytest.raises(UserError, match="did you mean 'syncbn'"):
        convert_norm(network, "sync_bn")


def test_every_row_of_tables_1_and_8_is_a_scheme() -> None:
    rows = {row for table, row, _ in paper.published() if table in ("table1", "table8")}
    assert rows <= {scheme.title for scheme in SCHEMES.values()}


def fused_case(
    shape: tuple[int, ...], dtype: torch.dtype, *, added: bool
) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """Input, weight, bias and residual of a fused norm, and the gradient of its output, in channels-last memory."""
    torch.manual_seed(0)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    x, residual, grad = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(3))
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    return [3 * x + 1, torch.rand(shape[1], dtype=kind) + 0.5, torch.randn(shape[1], dtype=kind)] + (
        [residual] if added else [None]
    ), grad


def by_hand(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    devices: int,
    *,
    relu: bool,
) -> torch.Tensor:
    """What a fused norm should give, by :func:`reference`."""
    y = torch.stack([reference(x[d::devices], weight, bias) for d in range(devices)], 1).flatten(0, 1)
    y = y if residual is None else y + residual
    return torch.relu(y) if relu else y


#: What half of the last place is, times what values and gradients reach here.
FUSED_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", FUSED_TOLERANCE)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("shape", "devices"),
    [
        ((24, 16, 3, 3), 4),
        ((8, 32, 14, 14), 2),  # an image's pixels are more than a tile
        ((8, 80, 5, 5), 1),
        ((32, 144), 4),
        ((80, 48, 1, 1), 10),
        ((8, 4112), 2),  # a pixel is more than a tile
    ],
)
def test_fused_norms_are_equations_2_and_3(
    shape: tuple[int, ...], devices: int, dtype: torch.dtype, added: bool, relu: bool
) -> None:
    given, grad = fused_case(shape, dtype, added=added)
    mine = [t if t is None else t.clone().requires_grad_() for t in given]
    theirs = [t if t is None else t.double().requires_grad_() for t in given]
    assert norms.serves(given[0], given[1])
    y, mean, var = norms.batch_norm(*mine[:3], devices, 1e-5, mine[3], relu)
    expected = by_hand(*theirs, devices, relu=relu)
    if dtype == torch.bfloat16:  # where rounding decides about ReLU, gradients may differ
        grad = grad * (expected.abs() > 0.05)
    y.backward(grad)
    expected.backward(grad.double())
    assert y.dtype == dtype
    assert y.stride() == given[0].stride()
    close = {"atol": FUSED_TOLERANCE[dtype], "rtol": FUSED_TOLERANCE[dtype]}
    torch.testing.assert_close(y.double(), expected, **close)
    for found, wanted in zip(mine, theirs, strict=True):
        if found is not None:
            scale = wanted.grad.abs().max()
            torch.testing.assert_close(found.grad.double() / scale, wanted.grad / scale, **close)
    parts = given[0].double().reshape(shape[0] // devices, devices, shape[1], -1).permute(1, 2, 0, 3).flatten(2)
    torch.testing.assert_close(mean.double(), parts.mean(2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(var.double(), parts.var(2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", FUSED_TOLERANCE)
@pytest.mark.parametrize("added", [False, True])
def test_a_fused_norm_in_evaluation_is_equation_8(dtype: torch.dtype, added: bool) -> None:
    given, _ = fused_case((24, 16, 3, 3), dtype, added=added)
    bn = DeviceBatchNorm(16, devices=4).to(given[1].dtype).eval()
    nn.init.normal_(bn.running_mean)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    nn.init.uniform_(bn.weight, 0.5, 2)
    x, residual = given[0], given[3]
    with torch.no_grad():
        found = norm_relu(bn, x, residual)
    plain = nn.functional.batch_norm(
        x.double(), bn.running_mean.double(), bn.running_var.double(), bn.weight.double(), bn.bias.double(), eps=bn.eps
    )
    expected = torch.relu(plain if residual is None else plain + residual.double())
    torch.testing.assert_close(found.double(), expected, atol=FUSED_TOLERANCE[dtype], rtol=FUSED_TOLERANCE[dtype])
    torch.testing.assert_close(norm_relu(bn, x, residual).double(), expected, atol=0.1, rtol=0.02)  # with a gradient


@pytest.mark.parametrize("dtype", FUSED_TOLERANCE)
def test_fused_norms_hide_nothing(dtype: torch.dtype) -> None:
    """NaN reaches the loss, from its own device alone; an infinite gradient that ReLU stops is gone."""
    (x, weight, bias, _), _ = fused_case((8, 16, 2, 2), dtype, added=False)
    x[3] = float("nan")
    y = norms.batch_norm(x, weight, bias, 4, 1e-5, None, True)[0]
    assert y[3::4].isnan().all()
    assert y[[0, 1, 2, 4, 5, 6]].isfinite().all()
    shift = torch.full_like(bias, float("nan"))
    assert norms.affine(x, weight, shift, None, True).isnan().all()
    if dtype != torch.float64:  # all bits of a NaN set: rounding must not carry over into the sign
        shift.view(torch.int32).fill_(-1)
        assert norms.affine(x, weight, shift, None, True).isnan().all()
    leaf = x[:3].clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norms.batch_norm(leaf, weight, bias - 100, 1, 1e-5, None, True)[0]
    y.backward(torch.full_like(y, float("inf")))
    assert not leaf.grad.any()


def test_what_fused_norms_do_not_serve_goes_by_pytorch() -> None:
    weight = torch.ones(16)
    assert norms.serves(torch.randn(8, 16), weight)
    assert not norms.serves(torch.randn(8, 24), torch.ones(24))
    assert not norms.serves(torch.randn(8, 16, 3, 3), weight)  # not in channels-last memory
    assert not norms.serves(torch.randn(8, 16, 6), weight)
    assert not norms.serves(torch.randn(8, 16).half(), weight)
    assert not norms.serves(torch.randn(8, 16, device="meta"), weight)
    assert not norms.serves(torch.randn(8, 16), weight.double())
