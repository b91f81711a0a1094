"""What a GPU needs: kernels, a step without waits for the device, and its replay as a graph.

Without a GPU, Triton's interpreter runs the kernels, and the tests of graphs are skipped.
"""

import copy
import io
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.graph import uses_graph
from eman.trainers.hashing import permutation
from eman.trainers.methods.registry import METHODS
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

KERNELS = """
import os
import sys

os.environ["TRITON_INTERPRET"] = sys.argv[1]
device = "cpu" if sys.argv[1] == "1" else "cuda"
import torch
import torch.nn.functional as F
from eman.trainers.accel import gpu

def close(found, expected, kind):
    bound = 1e-5 if kind == torch.float32 else 1e-2
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < bound, (float(error), kind)

torch.manual_seed(0)
for devices, samples, channels, side, shortcut, relu, kind in [
    (1, 8, 16, 5, False, False, torch.float32),
    (2, 8, 16, 5, True, True, torch.float32),
    (4, 8, 24, 3, False, True, torch.float32),
    (1, 4, 130, 9, True, True, torch.float32),
    (2, 64, 8, 12, True, False, torch.float32),
    (2, 8, 16, 5, True, True, torch.bfloat16),
]:
    def images(scale=1, shift=0):
        x = torch.randn(samples, channels, side, side, device=device) * scale + shift
        return x.to(kind).to(memory_format=torch.channels_last)

    x, grad, other = images(3, 5), images(), images() if shortcut else None
    weight, bias = torch.rand(channels, device=device) + 0.5, torch.randn(channels, device=device)
    y, statistics = gpu.forward(x, weight, bias, devices, 1e-5, other, relu)
    gradients = gpu.backward(grad, x, y if relu else None, weight, statistics, shortcut)

    X, W, B = (t.double().contiguous().requires_grad_() for t in (x, weight, bias))
    mean, var = torch.zeros(devices * channels).double().to(device), torch.ones(devices * channels).double().to(device)
    view = X.view(samples // devices, devices * channels, side, side)
    Y = F.batch_norm(view, mean, var, W.repeat(devices), B.repeat(devices), True, 1.0, 1e-5).view(X.shape)
    if shortcut:
        R = other.double().contiguous().requires_grad_()
        Y = Y + R
    Y = F.relu(Y) if relu else Y
    Y.backward(grad.double())
    close(y, Y.detach(), kind)
    close(statistics[0], mean.view(devices, -1), torch.float32)
    close(statistics[1], var.view(devices, -1), torch.float32)
    for found, leaf in zip(gradients, (X, W, B, R) if shortcut else (X, W, B)):
        close(found, leaf.grad, kind)
    scale = torch.rand(channels, device=device)
    expected = x.double() * scale.double().view(1, -1, 1, 1) + bias.double().view(1, -1, 1, 1)
    expected = expected + other.double() if shortcut else expected
    close(gpu.affine(x, scale, bias, other, relu), F.relu(expected) if relu else expected, kind)

from eman.trainers.accel import gpu_colour
from eman.trainers.views import transforms

x = torch.rand(6, 3, 37, 41, device=device)
x[0] = 0.5  # gray: no hue
x[1, 0] = x[1, 1]
amounts = [1 + 0.8 * (torch.rand(6, device=device) - 0.5) for _ in range(3)]
amounts.append(torch.tensor([0, 0.1, -0.1, 0.4, -0.4, 0.05], device=device))
grayed = torch.tensor([0, 0, 1, 0, 1, 0], dtype=torch.bool, device=device)
expected = transforms.jitter(x.cpu().double(), [a.cpu().double() for a in amounts], grayed.cpu())
assert (gpu_colour.jitter(x, amounts, grayed).cpu() - expected).abs().max() < 1e-5
"""


@pytest.mark.parametrize("interpreted", ["0" if torch.cuda.is_available() else "1"])
def test_kernels_compute_batch_norm_its_gradient_and_colours(interpreted: str) -> None:
    subprocess.run([sys.executable, "-c", KERNELS, interpreted], check=True)


class Waits(TorchDispatchMode):
    """Record operations that read a value from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name() in ("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"):
            self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scheme", ["eman", "shufflebn", "eman-corrected", "momentum2", "gn-ws"])
def test_a_step_reads_no_value_from_the_device(method: str, scheme: str) -> None:
    """Neither learning rate, queue, permutation nor pseudo-labels make the host wait."""
    if method == "supervised" and scheme != "eman":
        pytest.skip("there is no teacher")
    scheme = "default" if method == "supervised" else scheme
    assert reads(SMOKE.run(method, scheme)) == []


@pytest.mark.parametrize("rate", ["inside", "outside"])
def test_a_step_of_lars_reads_no_value_from_the_device(rate: str) -> None:
    assert reads(SMOKE.run("byol", "eman", overrides={"optimizer": "lars", "lars_rate": rate})) == []


def reads(spec: RunSpec) -> list[str]:
    """Return the operations of a run's second step that read a value from the device."""
    training = Training.fresh(spec, Workspace.from_environment())
    training.train_step()
    with Waits() as waits:
        training.train_step()
    return waits.seen


def test_a_permutation_depends_on_seed_and_count() -> None:
    counts = [torch.tensor(n) for n in range(3)]
    orders = [permutation(1000, seed, count).tolist() for seed in range(2) for count in counts]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    assert permutation(1000, 1, counts[2]).tolist() == orders[-1]
    places = torch.stack([permutation(8, 0, torch.tensor(n)) for n in range(4000)]).float()
    assert (places.mean(0) - 3.5).abs().max() < 0.15  # standard error 0.036


def test_graphs_are_used_where_they_can_be_and_refused_elsewhere() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")

    def uses(device: torch.device, workers: int = 1, side: int = 28, **fields: Any) -> bool:
        return uses_graph(SMOKE.run("moco", "eman", overrides=fields), device, workers, side)

    assert uses(gpu)
    assert not any((uses(cpu), uses(gpu, workers=2), uses(gpu, side=224)))
    assert uses(gpu, side=224, cuda_graph=True)
    assert not any((uses(gpu, precision="fp16"), uses(gpu, compile=True), uses(gpu, cuda_graph=False)))
    with pytest.raises(UserError, match="there is no GPU; leave cuda_graph out"):
        uses(cpu, cuda_graph=True)
    with pytest.raises(UserError, match="the run has 2 workers"):
        uses(gpu, workers=2, cuda_graph=True)


def steps(spec: RunSpec, count: int, state: dict[str, Any] | None = None) -> tuple[list[float], dict[str, Any]]:
    workspace = Workspace.from_environment()
    training = Training.fresh(spec, workspace) if state is None else Training.resumed(spec, workspace, state)
    losses = [training.train_step()[0].clone() for _ in range(count)]
    buffer = io.BytesIO()
    torch.save(training.state(), buffer)
    return [float(loss) for loss in losses], torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def leaves(state: dict[str, Any]) -> dict[str, Any]:
    flat, _ = torch.utils._pytree.tree_flatten_with_path(state)
    return {torch.utils._pytree.keystr(path): value for path, value in flat}


@on_gpu
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_graph_gives_the_same_run(method: str) -> None:
    fields = {"precision": "float64"}
    if method == "byol":
        fields |= {"optimizer": "lars", "lars_rate": "inside"}
    spec = SMOKE.run(method, "default" if method == "supervised" else "eman", overrides=fields)
    plain, graphed = (steps(spec.replace(cuda_graph=choice), 8) for choice in (False, True))
    assert plain[0] == pytest.approx(graphed[0], rel=1e-9)
    for name, value in leaves(plain[1]).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(leaves(graphed[1])[name], value, rtol=1e-7, atol=1e-9)


@on_gpu
@pytest.mark.parametrize("graphed", [False, True])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_resumed_run_is_the_same_bit_for_bit(method: str, graphed: bool) -> None:
    spec = SMOKE.run(method, "default" if method == "supervised" else "eman", overrides={"cuda_graph": graphed})
    whole, expected = steps(spec, 10)
    first, state = steps(spec, 5)
    rest, found = steps(spec, 5, copy.deepcopy(state))
    assert first + rest == whole
    for name, value in leaves(expected).items():
        assert torch.equal(leaves(found)[name], value) if isinstance(value, torch.Tensor) else True, name


def test_a_training_computes_float32_whole() -> None:
    """Not in TF32, which PyTorch would take for convolutions on a GPU."""
    torch.backends.cudnn.allow_tf32 = True
    Training.fresh(SMOKE.run("moco", "eman"), Workspace.from_environment())
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=False):  # as `torch.export` does; refused if the settings disagree
        pass
