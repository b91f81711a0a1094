"""How a run is computed changes nothing but rounding: memory format, compilation, accumulation, recomputation, fp16."""

import copy
import shutil
from typing import Any

import pytest
import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers import networks
from eman.trainers.accel import norms
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.networks import lay_out
from eman.trainers.norm.convert import convert_norm
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training

#: In float64 the order of sums differs by 1e-16, which a few steps amplify a little.
TOLERANCE = 1e-9


def trained(spec: RunSpec, steps: int = 3) -> dict[str, Any]:
    """Losses, measures and the whole state after some steps."""
    training = Training.fresh(spec, Workspace.from_environment())
    found = [training.train_step()[:2] for _ in range(steps)]
    state = {name: value for name, value in training.state().items() if name != "spec"}
    leaves, _ = tree_flatten_with_path({"state": state, "found": found})
    return {keystr(path): value for path, value in leaves}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor | float):
            torch.testing.assert_close(
                found[name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert found[name] == value, name


def exact(method: str, scheme: str, **fields: Any) -> RunSpec:
    return SMOKE.run(method, scheme, overrides={"precision": "float64", **fields})


SCHEMES = ("bn", "eman", "shufflebn", "teacher-pn-0.9", "student-pn-0.9", "gn-ws", "momentum2")


@pytest.mark.parametrize(
    ("method", "scheme"),
    [
        *((method, scheme) for method in ("fixmatch", "moco", "byol") for scheme in SCHEMES),
        ("fixmatch", "default"),
        ("supervised", "default"),
    ],
)
def test_a_batch_in_parts_is_the_whole_batch(method: str, scheme: str) -> None:
    assert_close(trained(exact(method, scheme, accumulate=4)), trained(exact(method, scheme)))


def test_several_devices_can_share_a_part() -> None:
    assert_close(trained(exact("moco", "shufflebn", accumulate=2)), trained(exact("moco", "shufflebn")))


def test_what_cannot_be_accumulated_is_refused() -> None:
    with pytest.raises(UserError, match="accumulate is 3, which does not divide the run's 4 devices"):
        Training.fresh(exact("moco", "eman", accumulate=3), Workspace.from_environment())
    for scheme, fields in (("syncbn", {}), ("eman", {"device_statistics": "mean"})):
        with pytest.raises(UserError, match="needs all devices at once; give student_norm bn"):
            exact("byol", scheme, accumulate=2, **fields)


@pytest.mark.parametrize(
    ("method", "scheme", "fields"),
    [
        ("byol", "bn", {}),
        ("fixmatch", "default", {}),
        ("moco", "gn-ws", {}),
        ("byol", "eman", {"accumulate": 2}),
        ("moco", "eman", {"precision": "bf16"}),
    ],
)
def test_recomputed_activations_change_nothing(method: str, scheme: str, fields: dict[str, Any]) -> None:
    """Bit for bit: the same operations on the same numbers."""
    kept, again = (trained(exact(method, scheme, **fields, recompute=recompute)) for recompute in (False, True))
    assert kept.keys() == again.keys()
    for name, value in kept.items():
        equal = torch.equal(value, again[name]) if isinstance(value, torch.Tensor) else value == again[name]
        assert equal, name


@pytest.mark.parametrize("backbone", ["small", "resnet18-small"])
def test_recomputation_keeps_fewer_activations(backbone: str) -> None:
    kept = {}
    for recompute in (False, True):
        training = Training.fresh(
            exact("moco", "eman", backbone=backbone, recompute=recompute, statistics_passes=0),
            Workspace.from_environment(),
        )
        sizes = {}

        def pack(x: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[x.data_ptr()] = x.numel()
            return x

        x = torch.randn(4, 1, 16, 16, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            y = training.student(x)
        kept[recompute] = sum(sizes.values())
        del y
    assert kept[True] < kept[False] / 2


def in_channels_last(spec: RunSpec) -> bool:
    """Whether the convolutions' weights are in that layout, in the student's stem, too, which has one channel."""
    backbone = Training.fresh(spec, Workspace.from_environment()).student[0]
    weights = [backbone.stem[0].weight, backbone.blocks[0].conv1.weight]
    found = {weight.stride(1) == 1 for weight in weights}
    assert len(found) == 1
    return found.pop()


def test_channels_last_where_the_norms_are_faster_in_it() -> None:
    assert in_channels_last(exact("moco", "eman"))
    assert not in_channels_last(exact("moco", "gn"))
    assert in_channels_last(exact("moco", "gn", channels_last=True))


@pytest.mark.parametrize(
    ("method", "scheme"),
    [
        ("byol", "eman"),
        ("byol", "syncbn"),
        ("fixmatch", "default"),
        ("fixmatch", "teacher-pn-0.9"),
        ("byol", "momentum2"),
        ("moco", "shufflebn"),
        ("supervised", "default"),
    ],
)
def test_fused_norms_change_the_layout_and_the_order_of_sums_alone(
    method: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = exact(method, scheme)
    by_kernels = trained(spec)
    monkeypatch.setattr(norms, "serves", lambda x, weight: False)
    monkeypatch.setattr(networks, "prefers_channels_last", lambda network: False)
    assert not in_channels_last(spec)
    assert_close(by_kernels, trained(spec))


@pytest.mark.parametrize("name", ["small", "small-2x", "resnet18-small", "resnet50"])
@pytest.mark.parametrize("train", [True, False])
def test_fused_norms_give_a_backbones_output_and_gradient(name: str, train: bool) -> None:
    torch.manual_seed(0)
    network = convert_norm(backbone_named(name).build(1), "bn", devices=2).double().train(train)
    x, found = torch.randn(12, 1, 24, 24, dtype=torch.float64), []
    for layout in (torch.channels_last, torch.contiguous_format):
        same = copy.deepcopy(network)
        lay_out(same, layout)
        with torch.set_grad_enabled(train):
            y = same(x)
        if train:
            y.square().mean().backward()
        found.append([y.detach(), *(p.grad for p in same.parameters()), *same.buffers()])
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_neither_threads_nor_where_memory_lies_change_a_bit_of_fused_norms(dtype: torch.dtype) -> None:
    """A compiled loop has copies, for vectors and for single values, and addresses decide which of them run."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = [torch.randn(32, 64, 2, 2).to(dtype) for _ in range(3)]
    vectors = [torch.rand(64, dtype=real), torch.randn(64, dtype=real)]
    threads, found = torch.get_num_threads(), []

    def moved(x: torch.Tensor, offset: int) -> torch.Tensor:
        memory = torch.empty(x.numel() + offset, dtype=dtype)[offset:].view(32, 2, 2, 64).permute(0, 3, 1, 2)
        return memory.copy_(x)

    try:
        for number in range(12):
            torch.set_num_threads(1 + number % 3)
            x, residual, grad = (moved(t, 5 * number * (i + 1)) for i, t in enumerate(tensors))
            leaves = [t.detach().requires_grad_() for t in (x, *(v.clone() for v in vectors), residual)]
            outputs = norms.batch_norm(*leaves[:3], 8, 1e-5, leaves[3], True)
            outputs[0].backward(grad)
            found.append([*(y.detach() for y in outputs), *(t.grad for t in leaves)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("scheme", ["eman", pytest.param("gn-ws", marks=pytest.mark.slow)])
def test_a_compiled_run_is_the_same_run(scheme: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fields = {"devices": 2, "statistics_passes": 0}
    assert_close(trained(exact("moco", scheme, **fields, compile=True), 2), trained(exact("moco", scheme, **fields), 2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # student and teacher


def test_without_a_compiler_there_is_a_reason_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"cannot be compiled .* give compile=false"):
        Training.fresh(exact("moco", "eman", compile=True), Workspace.from_environment()).train_step()


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    training = Training.fresh(SMOKE.run("moco", "eman", overrides={"precision": "fp16"}), Workspace.from_environment())
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before = [p.detach().clone() for p in training.student.parameters()]
    _, measures, _ = training.train_step()
    assert measures["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, training.student.parameters(), strict=True))
    assert training.scaler.get_scale() == 2.0**125
    assert training.step == 1
