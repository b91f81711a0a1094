"""Schedules of learning rate and momentum, and LARS."""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from eman.sweeps.profiles.imagenet import IMAGENET
from eman.trainers import optim
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.losses import byol
from eman.trainers.methods.registry import METHODS
from eman.trainers.sgd import LARS, SGD
from eman.trainers.spec.build import make_spec


def rates(steps_per_epoch: int, **fields: object) -> list[float]:
    spec = make_spec("moco", "eman", {"lr": 1.0, "epochs": 10, "warmup_epochs": 2.0, **fields})
    return [optim.learning_rate(spec.optim, step, steps_per_epoch) for step in range(10 * steps_per_epoch)]


def test_warmup_is_linear_by_iteration() -> None:
    assert rates(4)[:8] == pytest.approx([(i + 1) / 8 for i in range(8)])


def test_cosine_moves_once_an_epoch_or_at_each_step() -> None:
    by_epoch, by_step = rates(4), rates(4, schedule_unit="step")
    for epoch in range(2, 10):
        expected = 0.5 * (1 + math.cos(math.pi * (epoch - 2) / 8))
        assert by_epoch[4 * epoch : 4 * epoch + 4] == pytest.approx([expected] * 4)
        assert by_step[4 * epoch] == pytest.approx(expected)
    assert by_step[33] < by_step[32]


@pytest.mark.parametrize("arc", [7 / 16, 0.5, 0.1])
def test_a_cosine_arc_is_the_cosine_of_a_part_of_pi(arc: float) -> None:
    by_step = rates(4, schedule_unit="step", cosine_arc=arc)
    for step in range(8, 40):
        assert by_step[step] == pytest.approx(math.cos(math.pi * arc * (step - 8) / 32), rel=1e-12)
    by_epoch = rates(4, cosine_arc=arc)
    assert by_epoch[8::4] == pytest.approx(by_step[8::4], rel=1e-12)


def test_milestones_drop_tenfold() -> None:
    spec = make_spec("fixmatch", "eman", {"lr": 0.03, "epochs": 100})
    assert [optim.learning_rate(spec.optim, epoch * 7, 7) for epoch in (5, 59, 60, 79, 80, 99)] == pytest.approx(
        [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003]
    )


def test_byols_momentum_rises_to_one_or_to_another_end() -> None:
    entry = METHODS["byol"]
    section = make_spec("byol", "eman", {}).method
    assert [entry.momentum(section, step, 100) for step in (0, 50, 100)] == pytest.approx([0.98, 0.99, 1])
    section = make_spec("byol", "eman", {"momentum": 0.99, "final_momentum": 0.99}).method
    assert [entry.momentum(section, step, 100) for step in (0, 31, 100)] == pytest.approx([0.99] * 3)


def test_lars_follows_its_equation_and_leaves_vectors_alone() -> None:
    spec = make_spec("byol", "eman", {"lr": 0.5, "weight_decay": 0.01})
    layer = nn.Linear(3, 2)
    optimizer = optim.optimizer(spec.optim, layer)
    weight, bias = (p.detach().double().clone() for p in (layer.weight, layer.bias))
    for p in layer.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    g = layer.weight.grad.double()
    decayed = g + 0.01 * weight
    adapted = decayed * 0.001 * weight.norm() / (g.norm() + 0.01 * weight.norm())
    torch.testing.assert_close(layer.weight.double(), weight - 0.5 * adapted, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(layer.bias.double(), bias - 0.5 * layer.bias.grad.double(), atol=1e-6, rtol=1e-5)


def test_lars_leaves_out_what_the_official_code_finds_by_name() -> None:
    """The norms of a ResNet, and of BYOL's heads only their biases."""
    network = nn.Sequential(
        OrderedDict(
            backbone=backbone_named("resnet18").build(3),
            **byol.projector_and_predictor(make_spec("byol", "eman", {}).method, 512, 0),
        )
    )
    names = {id(p): name for name, p in network.named_parameters()}
    decayed = {}
    for choice in ("vectors", "official"):
        optimizer = optim.optimizer(make_spec("byol", "eman", {"lars_exclude": choice}).optim, network)
        groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
        decayed[choice] = groups[1e-6]
        assert groups[0.0] == set(names.values()) - groups[1e-6]
    assert decayed["vectors"] == {name for name, p in network.named_parameters() if p.ndim > 1}
    assert decayed["official"] - decayed["vectors"] == {"projector.1.weight", "predictor.1.weight"}
    assert decayed["vectors"] <= decayed["official"]
    assert IMAGENET.run("byol", "eman").optim.lars_exclude == "official"


def test_sgd_decays_vectors_unless_they_are_exempt() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    for exempt, vectors in ((False, 0), (True, 4)):  # two biases; scale and shift of the norm
        fields = {"optimizer": "sgd", "nesterov": True, "decay_exempts_vectors": exempt}
        optimizer = optim.optimizer(make_spec("byol", "eman", fields).optim, network)
        assert optimizer.nesterov
        decayed, undecayed = (group["params"] for group in optimizer.param_groups)
        assert (len(decayed), len(undecayed)) == (6 - vectors, vectors)
        assert all(p.ndim == 1 for p in undecayed)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_sgd_is_pytorchs_bit_for_bit(momentum: float, nesterov: bool, weight_decay: float) -> None:
    values = [torch.randn(4, 3), torch.randn(5), torch.randn(2)]
    mine, theirs = ([v.clone().requires_grad_() for v in values] for _ in range(2))
    ours = SGD(mine, 0.1, momentum, weight_decay, nesterov=nesterov)
    stock = torch.optim.SGD(theirs, 0.1, momentum, weight_decay=weight_decay, foreach=True, nesterov=nesterov)
    for step in range(4):
        for optimizer, parameters in ((ours, mine), (stock, theirs)):
            optimizer.zero_grad()
            used = parameters[: 2 + step % 2]  # one parameter has no gradient in every other step
            sum((p.square() * (n + 1)).sum() for n, p in enumerate(used)).backward()  # type: ignore[union-attr]
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.step()
        if step == 1:  # a resume
            fresh = SGD(mine, 0.1, momentum, weight_decay, nesterov=nesterov)
            fresh.load_state_dict(ours.state_dict())
            ours = fresh
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_lars_is_timms() -> None:
    """Over several steps with momentum, weight decay, a zero weight and excluded vectors."""
    from timm.optim.lars import Lars

    torch.manual_seed(0)
    mine = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    nn.init.zeros_(mine[1].weight)
    theirs = copy.deepcopy(mine)
    ours = LARS([m.weight for m in mine], 0.7, 0.9, 0.01, [m.bias for m in mine])
    groups = [{"params": [m.weight for m in theirs]}, {"params": [m.bias for m in theirs], "weight_decay": 0.0}]
    stock = Lars(groups, lr=0.7, momentum=0.9, weight_decay=0.01, trust_coeff=0.001, eps=0)
    for _ in range(5):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        stock.step()
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def reference_lars(
    parameters: Sequence[np.ndarray], gradients: Sequence[np.ndarray], buffers: list[np.ndarray], rate: float
) -> None:
    """Take a step of LARS in NumPy, the rate inside the buffer: momentum 0.9, weight decay 1e-6, eta 0.001. Vectors
    follow SGD."""
    for n, (theta, g) in enumerate(zip(parameters, gradients, strict=True)):
        direction = rate * g
        if theta.ndim > 1:
            size, slope = np.sqrt((theta**2).sum()), np.sqrt((g**2).sum())
            direction = rate * 0.001 * size / (slope + 1e-6 * size) * (g + 1e-6 * theta)
        buffers[n] = 0.9 * buffers[n] + direction
        parameters[n][...] = theta - buffers[n]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_lars_in_the_official_order_is_a_float64_reference_through_the_warm_up(as_tensor: bool) -> None:
    """Profile imagenet's own schedule, on a small network; the other order strays by more than rounding."""
    spec = IMAGENET.run("byol", "eman", 0, {"epochs": 8, "warmup_epochs": 5.0}).optim
    assert spec.lars_rate == "inside"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    other = copy.deepcopy(network)
    x, y = torch.randn(20, 6).double(), torch.randn(20, 3).double()
    theirs = [p.detach().numpy().copy() for p in network.parameters()]
    buffers = [np.zeros_like(p) for p in theirs]
    choices = {network: "inside", other: "outside"}
    optimizers = {
        net: optim.optimizer(spec.model_copy(update={"lars_exclude": None, "lars_rate": rate}), net)
        for net, rate in choices.items()
    }
    for step in range(24):  # three steps an epoch
        rate = optim.learning_rate(spec, step, 3)
        for net, optimizer in optimizers.items():
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(rate, dtype=torch.float64) if as_tensor else rate
            gradients = [p.grad.numpy().copy() for p in net.parameters()]  # type: ignore[union-attr]
            optimizer.step()
            if net is network:
                reference_lars(theirs, gradients, buffers, rate)
        if step == 6:  # a resume
            fresh = optim.optimizer(spec.model_copy(update={"lars_exclude": None}), network)
            fresh.load_state_dict(optimizers[network].state_dict())
            optimizers[network] = fresh
        for ours, expected in zip(network.parameters(), theirs, strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-11, atol=1e-13)
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) > 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_where_the_rate_enters_matters_only_while_it_changes(momentum: float) -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    ends = []
    for inside in (False, True):
        parameter = nn.Parameter(start.clone())
        optimizer = LARS([parameter], 0.5, momentum, 0.01, rate_inside=inside)
        for step in range(6):
            parameter.grad = torch.full_like(parameter, step + 1) * start
            optimizer.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("kind", "nesterov"), [(SGD, False), (SGD, True), (LARS, False)])
def test_a_learning_rate_may_be_a_tensor(kind: type[SGD], nesterov: bool) -> None:
    torch.manual_seed(0)
    start = [torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    results = []
    for rate in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        parameters = [nn.Parameter(x.clone()) for x in start]
        optimizer = kind(parameters[:1], 0.0, 0.9, 0.01, parameters[1:], nesterov=nesterov)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for step in range(3):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, step + 1)
            optimizer.step()
        results.append([p.detach() for p in parameters])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)
