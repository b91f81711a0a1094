"""Part `right`: the GPU's runs against the CPU's, resumed runs, other precisions, graphs, and two processes.

Tolerances are relative. In float64 both devices get the same views, and 20 steps must agree. In float32 the GPU makes
its own views; the first loss must agree, and later differences, which grow from step to step, are only reported.
"""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eman.platform.machine import cores
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.trainers.methods.registry import METHODS
from eman.trainers.norm.schemes import SCHEMES
from gpu_parts import compare, team
from gpu_parts.jobs import Job, Outcome, run_all
from gpu_parts.report import Report
from gpu_parts.timing import on_gpu

#: Tolerances: first loss and 20-step state in float64; first loss in float32; first loss in bf16 and fp16; losses of
#: two processes in float64.
LOSS_64, STATE_64, LOSS_32, LOSS_16, LOSS_TEAM = 1e-9, 1e-7, 1e-5, 0.02, 1e-7

#: Schemes that are also run in channels-last memory, where batch norms have kernels of their own.
KERNEL_SCHEMES = ("default", "bn", "syncbn", "shufflebn", "eman")

#: Small networks for 32-pixel colour images, with 8 devices of 4 images.
COMMON: dict[str, Any] = {
    "dataset": "synthetic",
    "image_size": 32,
    "backbone": "small",
    "devices": 8,
    "epochs": 2,
    "warmup_epochs": 0.5,
    "schedule_unit": "step",
    "cuda_graph": False,
}
OWN: dict[str, dict[str, Any]] = {
    "fixmatch": {"batch": 32, "labelled_batch": 16, "label_fraction": 0.1, "momentum": 0.9, "threshold": 0.2},
    "moco": {"batch": 32, "queue": 128, "hidden_dim": 32, "projection_dim": 16, "momentum": 0.9},
    "byol": {"batch": 32, "hidden_dim": 32, "projection_dim": 16, "optimizer": "sgd", "lr": 0.05},
    "supervised": {"labelled_batch": 32},
}

Comparison = Callable[[Outcome, Outcome], dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A comparison of two jobs: its name, the jobs' names (side, name), and how to compare their outcomes."""

    name: str
    found: tuple[str, str]
    wanted: tuple[str, str]
    compare: Comparison


def configurations(dry: bool) -> list[tuple[str, str]]:
    """Return every method with every scheme that it allows. ``default`` is another scheme's name except in FixMatch."""
    if dry:
        return [("fixmatch", "default"), ("moco", "eman")]
    pairs = [(method, scheme) for method in OWN for scheme in SCHEMES if METHODS[method].teacher]
    pairs = [(method, scheme) for method, scheme in pairs if scheme != "default" or method == "fixmatch"]
    return [*pairs, ("supervised", "default")]


def job(method: str, scheme: str, name: str, home: Path, steps: int, **fields: Any) -> Job:
    """Return a job of a method and a scheme."""
    spec = IMAGENET.run(method, scheme, overrides={**COMMON, **OWN[method], **fields})
    return Job(f"{method} {scheme} {name}", spec.flat(), steps, home)


def close_32(found: Outcome, wanted: Outcome) -> dict[str, Any]:
    """Compare float32 runs on both devices."""
    first = compare.losses(found.losses[:1], wanted.losses[:1])
    gaps = compare.states(found.state, wanted.state)
    return {
        "ok": first <= LOSS_32,
        "first_loss": first,
        "loss_20": compare.losses(found.losses, wanted.losses),
        "state_20": max(gaps.values()),
        **compare.views(found.views, wanted.views),
        "by_part": gaps,
    }


def close_64(found: Outcome, wanted: Outcome) -> dict[str, Any]:
    """Compare float64 runs with the same views."""
    first = compare.losses(found.losses[:1], wanted.losses[:1])
    gaps = compare.states(found.state, wanted.state)
    state = max(gaps.values())
    ok = first <= LOSS_64 and state <= STATE_64
    return {"ok": ok, "first_loss": first, "state_20": state, "by_part": gaps}


def close_16(found: Outcome, wanted: Outcome) -> dict[str, Any]:
    """Compare the first loss in half precision with that in float32."""
    first = compare.losses(found.losses[:1], wanted.losses[:1])
    return {"ok": first <= LOSS_16, "first_loss": first}


def same(found: Outcome, wanted: Outcome) -> dict[str, Any]:
    """Compare a run that was resumed with one that was not, to the bit."""
    different = compare.bitwise(found.state, wanted.state)
    return {"ok": not different, "different": len(different), "names": different[:8]}


def plan(home: Path, dry: bool) -> tuple[list[Job], list[Job], list[Check]]:
    """Return the CPU's jobs, the GPU's jobs and the comparisons."""
    steps = 2 if dry else 20
    cpu: dict[str, Job] = {}
    gpu: dict[str, Job] = {}
    checks: list[Check] = []

    def check(kind: Comparison, name: str, found: Job, wanted: Job, side: str) -> None:
        gpu.setdefault(found.name, found)
        (cpu if side == "cpu" else gpu).setdefault(wanted.name, wanted)
        checks.append(Check(name, ("gpu", found.name), (side, wanted.name), kind))

    for method, scheme in configurations(dry):
        title = f"{method} {scheme}"
        single = replace(job(method, scheme, "float32", home, steps, precision="float32"), views=True)
        double = job(method, scheme, "float64", home, steps, precision="float64")
        fed = replace(double, name=f"{double.name}, CPU's views", cpu_views=True)
        check(close_32, f"{title} float32", single, single, "cpu")
        check(close_64, f"{title} float64", fed, fed, "cpu")
        if scheme in KERNEL_SCHEMES and not dry:
            last = replace(single.with_fields(channels_last=True), name=f"{single.name}, channels-last")
            check(close_32, f"{title} float32, channels-last", last, single, "cpu")
        if on_gpu():
            graph = replace(double.with_fields(cuda_graph=True), name=f"{double.name}, graph")
            check(close_64, f"{title} graph", graph, double, "gpu")
    lars = job("byol", "eman", "LARS", home, steps, precision="float64", optimizer="lars", lr=1.8)
    check(close_64, "byol eman LARS float64", *[replace(lars, cpu_views=True)] * 2, "cpu")
    for found, wanted, kind, name in _more(home, 2 * (steps // 2), dry):
        check(kind, name, found, wanted, "gpu")
    return list(cpu.values()), list(gpu.values()), checks


def _more(home: Path, steps: int, dry: bool) -> Iterator[tuple[Job, Job, Comparison, str]]:
    """Yield comparisons of runs on the GPU: resumed ones, and other precisions."""
    kinds: dict[str, dict[str, Any]] = {"float32": {}} if dry else {"float32": {}, "bf16": {"precision": "bf16"}}
    if on_gpu():
        kinds |= {f"{kind}, graph": {**fields, "cuda_graph": True} for kind, fields in kinds.items()}
    for method in ("moco",) if dry else OWN:
        scheme = "eman" if METHODS[method].teacher else "default"
        for kind, fields in kinds.items():
            whole = job(method, scheme, f"whole, {kind}", home, steps, **fields)
            halves = replace(whole, name=f"{method} {scheme} resume, {kind}", resume=True)
            yield halves, whole, same, halves.name
        single = replace(job(method, scheme, "float32", home, steps, precision="float32"), views=True)
        for precision in ("bf16",) if dry else ("bf16", "fp16"):
            half = job(method, scheme, precision, home, 1, precision=precision)
            yield half, single, close_16, half.name


def measure(report: Report, home: Path, *, dry: bool) -> None:
    """Run all jobs on both devices side by side, and compare them as they finish."""
    report.found["tolerances"] = {
        "float64": f"first loss {LOSS_64:g}, state after 20 steps {STATE_64:g}",
        "float32": f"first loss {LOSS_32:g}",
        "bf16, fp16": f"first loss {LOSS_16:g}",
        "resume": "equal to the bit",
        "two processes": f"losses {LOSS_TEAM:g}, float64",
    }
    cpu, gpu, checks = plan(home, dry)
    known = report.found["rows"].keys() | report.found["errors"].keys()
    checks = [check for check in checks if check.name not in known]
    wanted = {side for check in checks for side in (check.found, check.wanted)}
    cpu = [one for one in cpu if ("cpu", one.name) in wanted]
    gpu = [one for one in gpu if ("gpu", one.name) in wanted]
    report.say(f"{len(cpu)} runs on the CPU, {len(gpu)} on the GPU, {len(checks)} comparisons")
    reserved = 0.0 if dry else 25.0  # for two processes
    _compare(report, checks, _arrivals(cpu, gpu, report.left - reserved, dry), reserved)
    for child in multiprocessing.active_children():
        child.terminate()
    _two_processes(report, home, dry)
    rows = [row for row in report.found["rows"].values() if "ok" in row]
    failed = [name for name, row in report.found["rows"].items() if not row.get("ok", True)]
    report.found["failed"] = failed
    report.say(f"{len(rows) - len(failed)} of {len(rows)} comparisons agree; not: {', '.join(failed) or 'none'}")
    report.write()


def _arrivals(
    cpu: Sequence[Job], gpu: Sequence[Job], seconds: float, dry: bool
) -> Iterator[tuple[tuple[str, str], Outcome | str]]:
    """Run both devices' jobs; yield outcomes by (side, name) as they finish."""
    arrived: queue.Queue[tuple[tuple[str, str], Outcome | str] | None] = queue.Queue()

    def work(side: str, jobs: Sequence[Job], processes: int) -> None:
        try:
            if side == "cpu" and processes:  # one run compiles the kernels of each data type for all processes
                first = {one.fields.get("precision"): one for one in reversed(jobs)}
                for one, outcome in run_all(list(first.values()), len(first), cpu=True, seconds=seconds / 2):
                    arrived.put((("cpu", one.name), outcome))
                jobs = [one for one in jobs if one not in first.values()]
            for one, outcome in run_all(jobs, processes, cpu=side == "cpu", seconds=seconds):
                arrived.put(((side, one.name), outcome))
        finally:
            arrived.put(None)

    if dry:
        work("cpu", cpu, 0)
        work("gpu", gpu, 0)
    else:
        share = max(1, cores() // 2) if torch.cuda.is_available() else 1
        for side, jobs, count in (("gpu", gpu, share), ("cpu", cpu, max(1, cores() - share))):
            threading.Thread(target=work, args=(side, jobs, count), daemon=True).start()
    for _ in range(2):
        while (item := arrived.get()) is not None:
            yield item


def _compare(
    report: Report, checks: Sequence[Check], arrivals: Iterator[tuple[tuple[str, str], Outcome | str]], reserved: float
) -> None:
    outcomes: dict[tuple[str, str], Outcome | str] = {}
    open_checks = list(checks)
    for place, outcome in arrivals:
        outcomes[place] = outcome
        ready = [check for check in open_checks if check.found in outcomes and check.wanted in outcomes]
        for check in ready:
            open_checks.remove(check)
            _record(report, check, outcomes[check.found], outcomes[check.wanted])
        if report.left < reserved or not open_checks:
            break
    for check in open_checks:
        report.leave_out(check.name)


def _record(report: Report, check: Check, found: Outcome | str, wanted: Outcome | str) -> None:
    """Record a comparison, or the error of one of its runs."""
    for side, outcome in ((check.found[0], found), (check.wanted[0], wanted)):
        if isinstance(outcome, str):
            report.fail(check.name, f"on the {side.upper()}: {outcome}")
            return
    assert isinstance(found, Outcome)
    assert isinstance(wanted, Outcome)
    try:
        row = check.compare(found, wanted)
    except (ValueError, AssertionError) as error:
        report.fail(check.name, str(error))
        return
    report.add(check.name, row)


def _two_processes(report: Report, home: Path, dry: bool) -> None:
    """Compare losses of two processes on one card with those of one."""
    kinds = [("moco", "eman")] if dry else [(m, s) for m in ("moco", "byol", "fixmatch") for s in ("eman", "syncbn")]
    kinds += [] if dry else [("moco", "shufflebn")]
    jobs = [job(m, s, "on two processes", home, 2 if dry else 5, precision="float64") for m, s in kinds]
    jobs = [one for one in jobs if one.name not in report.found["rows"] and one.name not in report.found["errors"]]
    if not jobs:
        return
    if report.left < (0 if dry else 10):
        for one in jobs:
            report.leave_out(one.name)
        return
    found = team.run_team(jobs, 2, max(report.left, 60.0 if dry else 15.0))
    for one in jobs:
        report.attempt(one.name, lambda one=one: _against_one(one, found[one.name]))


def _against_one(one: Job, found: team.Losses) -> Mapping[str, Any]:
    if isinstance(found, str):
        raise RuntimeError(found)
    gap = compare.losses(found, team.losses(one))
    return {"ok": gap <= LOSS_TEAM, "losses": gap}
