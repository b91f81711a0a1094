"""Short runs in processes of their own, on the CPU or on the GPU, and what they leave behind.

A process that shall compute on the CPU is started with the GPU hidden from it, since runs use a GPU that they see.
"""

import io
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eman.platform.workspace import Workspace
from eman.trainers.batches import Batches, Samples
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from gpu_parts.report import last_lines

Array = np.ndarray[Any, Any]
Views = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Job:
    """A short run.

    Attributes:
        name: Name that tells it from the other jobs.
        fields: The run's flat fields.
        steps: Steps to take.
        home: Work folder.
        cpu_views: Use views made on the CPU, so that runs on both devices have the same.
        resume: Save the state after half of the steps, and continue from it in a new training.
        views: Return the first step's views.
    """

    name: str
    fields: Mapping[str, Any]
    steps: int
    home: Path
    cpu_views: bool = False
    resume: bool = False
    views: bool = False

    def with_fields(self, **fields: Any) -> "Job":
        """Return this job with other fields of its run."""
        return replace(self, fields={**self.fields, **fields})


@dataclass(frozen=True)
class Outcome:
    """What a job's run leaves behind.

    Attributes:
        losses: The loss of each step.
        state: Every tensor of the state by its name.
        views: The first step's views by name, if they were asked for.
    """

    losses: list[float]
    state: dict[str, Array]
    views: dict[str, Array]


class ViewsFromCpu:
    """A run's batches, with views made on the CPU.

    Args:
        batches: The run's batches on its device.
        cpu: The same batches on the CPU.
    """

    def __init__(self, batches: Batches, cpu: Batches) -> None:
        self.batches, self.cpu = batches, cpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def samples(self, step: int) -> dict[str, Samples]:
        """Return a step's samples, on the CPU."""
        return self.cpu.samples(step)

    def views(self, samples: Mapping[str, Samples]) -> Views:
        """Return views and labels, made on the CPU, on the run's device."""
        views, labels = self.cpu.views(samples)
        device = self.batches.device
        return {n: x.to(device) for n, x in views.items()}, {n: x.to(device) for n, x in labels.items()}


def run(job: Job) -> Outcome:
    """Run a job in this process."""
    torch.set_num_threads(1)
    spec, workspace = RunSpec.from_flat(job.fields), Workspace(home=job.home)
    training = Training.fresh(spec, workspace)
    views = _use_views(job, training, spec, workspace)
    losses = []
    for step in range(job.steps):
        if job.resume and step == job.steps // 2:
            training.close()
            training = Training.resumed(spec, workspace, _reloaded(training.state()))
        losses.append(training.train_step()[0].detach().clone())
    state = flat(training.state())
    training.close()
    return Outcome([float(x) for x in losses], state, views)


def _use_views(job: Job, training: Training, spec: RunSpec, workspace: Workspace) -> dict[str, Array]:
    """Give the training views from the CPU if asked to; return the first step's if asked to."""
    batches = training.batches
    if job.cpu_views:
        cpu = Batches(spec, workspace, torch.device("cpu"), batches.dtype)
        training.batches = ViewsFromCpu(batches, cpu)  # type: ignore[assignment]
    return {name: _array(x) for name, x in batches.at(0)[0].items()} if job.views else {}


def _reloaded(state: Mapping[str, Any]) -> Any:
    """Return a state after a trip through a file in memory."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def flat(state: Any, name: str = "") -> dict[str, Array]:
    """Return the tensors and numbers of a nested state by dotted names."""
    if isinstance(state, Tensor):
        return {name: _array(state)}
    if isinstance(state, bool | int | float):
        return {name: np.asarray(state)}
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(state, Mapping):
        items = iter(state.items())
    elif isinstance(state, list | tuple):
        items = iter(enumerate(state))
    found: dict[str, Array] = {}
    for key, value in items:
        if key not in ("spec", "data"):
            found |= flat(value, f"{name}.{key}" if name else str(key))
    return found


def _array(x: Tensor) -> Array:
    x = x.detach().cpu()
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy().copy()


def hide_gpu() -> None:
    """Hide the GPU from this process, before it has looked for one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _nothing() -> None:
    """Start a process that uses the GPU."""


@cache
def spawn() -> Any:
    """Return the context in which processes start: a new interpreter with a GPU, else a faster fork."""
    return multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")


def run_all(jobs: Sequence[Job], processes: int, *, cpu: bool, seconds: float) -> Iterator[tuple[Job, Outcome | str]]:
    """Run jobs side by side; yield each with its outcome or its error. Failed jobs are tried twice.

    Args:
        jobs: The jobs.
        processes: Number of processes; 0 runs them in this one.
        cpu: Hide the GPU from the processes.
        seconds: Time after which jobs are no longer waited for.
    """
    if processes == 0:
        yield from ((job, attempt(job)) for job in jobs)
        return
    failed: list[tuple[Job, str]] = []
    deadline = time.monotonic() + seconds
    for job, outcome in _pooled(jobs, processes, cpu, seconds):
        if isinstance(outcome, str):
            failed.append((job, outcome))
        else:
            yield job, outcome
    left = deadline - time.monotonic()
    if failed and left > 5:  # an error on a GPU can spoil the other jobs of its process
        yield from _pooled([job for job, _ in failed], min(processes, len(failed)), cpu, left)
    else:
        yield from failed


def _pooled(jobs: Sequence[Job], processes: int, cpu: bool, seconds: float) -> Iterator[tuple[Job, Outcome | str]]:
    pool = ProcessPoolExecutor(processes, mp_context=spawn(), initializer=hide_gpu if cpu else _nothing)
    futures = {pool.submit(attempt, job): job for job in jobs}
    waiting = dict(futures)
    try:
        for future in as_completed(futures, timeout=seconds):
            job = waiting.pop(future)
            try:
                yield job, future.result()
            except BrokenExecutor as error:
                yield job, f"the process ended: {error}"
    except TimeoutError:
        for job in waiting.values():
            yield job, f"not done after {seconds:.0f} s"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def attempt(job: Job) -> Outcome | str:
    """Run a job; return its outcome, or its error's last lines."""
    try:
        return run(job)
    except Exception as error:
        return last_lines(error)
