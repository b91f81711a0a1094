"""Several gloo processes against one: the same numbers on any number of workers."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing as mp

from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers import distributed
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.norm.statistics import share_statistics
from eman.trainers.training import Training

DEVICES = 4


def _worker(rank: int, workers: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    try:
        torch.save(function(*arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_workers(workers: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What each worker's call returned, in the order of ranks."""
    folder.mkdir()
    mp.start_processes(
        _worker,
        (workers, str(folder), function, arguments),
        nprocs=workers,  # type: ignore[no-untyped-call]
        start_method="fork" if sys.platform == "linux" else "spawn",
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(workers)]


@pytest.fixture(scope="module")
def warm() -> None:
    """Import and compile once what the forked workers would each import and compile."""
    torch.set_num_threads(1)
    for method in ("fixmatch", "moco", "byol"):
        spec = SMOKE.run(method, "eman").replace(precision="float64")
        Training.fresh(spec, Workspace.from_environment()).train_step()


def _rows(permutation: torch.Tensor) -> dict[str, torch.Tensor]:
    mine = distributed.positions(len(permutation), DEVICES)
    x = mine.float().unsqueeze(1).expand(-1, 3) * 10
    shuffled = distributed.exchange_rows(x, permutation, DEVICES)
    back = distributed.exchange_rows(shuffled, torch.argsort(permutation), DEVICES)
    return {"mine": mine, "shuffled": shuffled, "back": back, "all": distributed.gather_rows(x, DEVICES)}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_rows_travel_by_global_position(workers: int, tmp_path: Path) -> None:
    permutation = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    results = on_workers(workers, tmp_path / "x", _rows, permutation)
    assert sorted(torch.cat([r["mine"] for r in results]).tolist()) == list(range(16))
    for result in results:
        assert result["shuffled"][:, 0].tolist() == (permutation[result["mine"]] * 10).tolist()
        assert result["back"][:, 0].tolist() == (result["mine"] * 10).tolist()
        assert result["all"][:, 0].tolist() == [10 * i for i in range(16)]


def _sync(x_all: torch.Tensor, target_all: torch.Tensor) -> dict[str, torch.Tensor]:
    mine = distributed.positions(len(x_all), DEVICES)
    layer = DeviceBatchNorm(5, devices=DEVICES // distributed.workers(), sync=True)
    torch.nn.init.constant_(layer.weight, 1.5)
    x = x_all[mine].clone().requires_grad_()
    y = layer(x)
    (y * target_all[mine]).sum().backward()
    assert x.grad is not None
    weight_grad = layer.weight.grad.clone()
    if distributed.workers() > 1:
        dist.all_reduce(weight_grad)
    return {
        "mine": mine,
        "y": y.detach(),
        "grad": x.grad,
        "weight": weight_grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
    }


@pytest.mark.parametrize("shape", [(16, 5, 3, 3), (16, 5)])
def test_syncbn_over_workers_is_one_big_batch(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, target = torch.randn(shape) * 2 + 1, torch.randn(shape)
    one = on_workers(1, tmp_path / "1", _sync, x, target)[0]
    for result in on_workers(2, tmp_path / "2", _sync, x, target):
        for name in ("y", "grad"):
            torch.testing.assert_close(result[name], one[name][result["mine"]], atol=1e-5, rtol=1e-4)
        for name in ("mean", "var", "weight"):
            torch.testing.assert_close(result[name], one[name], atol=1e-5, rtol=1e-4)


def _statistics(x_all: torch.Tensor, source: str) -> torch.Tensor:
    mine = distributed.positions(len(x_all), DEVICES)
    layer = DeviceBatchNorm(5, devices=DEVICES // distributed.workers(), device_statistics=source)
    layer(x_all[mine])
    share_statistics(layer)
    assert layer.running_mean is not None
    return layer.running_mean


@pytest.mark.parametrize("source", ["device0", "mean"])
def test_running_statistics_are_shared(source: str, tmp_path: Path) -> None:
    x = torch.randn(16, 5, 3, 3)
    one = on_workers(1, tmp_path / "1", _statistics, x, source)[0]
    for result in on_workers(2, tmp_path / "2", _statistics, x, source):
        torch.testing.assert_close(result, one)


def _every_scheme(method: str, steps: int, schemes: Sequence[str], accumulate: int | None = None) -> dict[str, Any]:
    """Losses and states of ``steps`` steps under each scheme of a method."""
    found = {}
    for scheme in schemes:
        if scheme == "default" and method != "fixmatch":
            continue  # another scheme's name in this method
        training = Training.fresh(
            SMOKE.run(method, scheme).replace(precision="float64", accumulate=accumulate), Workspace.from_environment()
        )
        losses = []
        for _ in range(steps):
            loss, _, _ = training.train_step()
            losses.append(float(distributed.mean_over_workers(loss.clone())))
        training.share_teacher_statistics()
        state = training.weights()
        criterion = training.criterion.state_dict()
        found[scheme] = {
            "losses": torch.tensor(losses, dtype=torch.float64),
            **{f"student.{name}": tensor for name, tensor in state["student"].items()},
            **{f"teacher.{name}": tensor for name, tensor in (state["teacher"] or {}).items()},
            **{f"criterion.{name}": tensor for name, tensor in criterion.items()},
        }
    return found


#: A scheme for each pair of norms. Others differ only in a momentum, which no worker exchanges.
DISTINCT = list({(scheme.student, scheme.teacher): name for name, scheme in SCHEMES.items()}.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixmatch", "moco", "byol"])
def test_every_scheme_gives_the_same_run_on_1_2_and_4_workers(method: str, warm: None, tmp_path: Path) -> None:
    one = on_workers(1, tmp_path / "1", _every_scheme, method, 4, DISTINCT)[0]
    for workers in (2, 4):
        results = on_workers(workers, tmp_path / str(workers), _every_scheme, method, 4, DISTINCT)
        _assert_all_as(one, results)


@pytest.mark.parametrize("method", ["fixmatch", "moco", "byol"])
def test_two_workers_that_accumulate_give_the_same_run(method: str, warm: None, tmp_path: Path) -> None:
    schemes = ("default", "shufflebn", "eman", "teacher-pn-0.9")
    one = on_workers(1, tmp_path / "1", _every_scheme, method, 3, schemes)[0]
    _assert_all_as(one, on_workers(2, tmp_path / "2", _every_scheme, method, 3, schemes, 2))


def _assert_all_as(one: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        for scheme, state in one.items():
            for name, expected in state.items():
                torch.testing.assert_close(
                    result[scheme][name],
                    expected,
                    atol=1e-10,
                    rtol=1e-10,
                    msg=partial("{}, {}, worker {} of {}: {}".format, scheme, name, rank, len(results)),
                )


#: Numbers of workers differ in the order of sums, about 1e-16 each in float64. Steps amplify this, most under IN, whose
#: norms run over few numbers: to 1e-13 after six steps, to 2e-9 after twenty.
TOLERANCE = 1e-6


def _fit_some(fields: str, folder: str, stop_after: int | None) -> dict[str, Any]:
    from eman.trainers.loop import fit
    from eman.trainers.spec.run import RunSpec

    outcome = fit(
        RunSpec.from_flat(json.loads(fields)),
        Workspace.from_environment(),
        folder=Place(folder),
        stop_after=stop_after,
    )
    networks = outcome.training.weights()
    return {"student": networks["student"], "teacher": networks["teacher"], "loss": outcome.metrics.get("train/loss")}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "scheme"), [("moco", "bn"), ("fixmatch", "eman")])
def test_a_run_stopped_on_2_workers_goes_on_on_1_or_4(method: str, scheme: str, warm: None, tmp_path: Path) -> None:
    fields = json.dumps(SMOKE.run(method, scheme).replace(precision="float64", device_statistics="mean").flat())
    whole = on_workers(1, tmp_path / "whole", _fit_some, fields, str(tmp_path / "w"), None)[0]
    for workers in (1, 4):
        folder = tmp_path / f"run{workers}"
        on_workers(2, tmp_path / f"start{workers}", _fit_some, fields, str(folder), 20)
        result = on_workers(workers, tmp_path / f"end{workers}", _fit_some, fields, str(folder), None)[0]
        assert result["loss"] == pytest.approx(whole["loss"], rel=TOLERANCE)
        for network in ("student", "teacher"):
            for name, expected in whole[network].items():
                torch.testing.assert_close(result[network][name], expected, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
