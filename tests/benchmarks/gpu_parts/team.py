"""Two processes that train one run together, on one GPU over gloo: NCCL refuses two ranks on one GPU."""

import inspect
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers import training as training_module
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from gpu_parts.jobs import Job, spawn
from gpu_parts.report import last_lines

Losses = list[float] | str


class _OlderDdp(DistributedDataParallel):
    """DDP with the name that PyTorch before 2.12 has for the option with which the project leaves buffers alone."""

    def __init__(self, module: nn.Module, *, forward_sync_buffers: bool) -> None:
        super().__init__(module, broadcast_buffers=forward_sync_buffers)


def support_older_ddp() -> None:
    """Let runs of several processes train with an older PyTorch, which a lent machine may have."""
    if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel.__init__).parameters:
        training_module.DistributedDataParallel = _OlderDdp  # type: ignore[misc]


def losses(job: Job) -> list[float]:
    """Return the loss of each step, averaged over the processes."""
    training = Training.fresh(RunSpec.from_flat(job.fields), Workspace(home=job.home))
    found = [float(distributed.mean_over_workers(training.train_step()[0].detach().clone())) for _ in range(job.steps)]
    training.close()
    return found


def _member(rank: int, workers: int, folder: str, jobs: Sequence[Job]) -> None:
    """Run jobs one after the other; the first process writes each result as soon as it is there."""
    torch.set_num_threads(1)
    support_older_ddp()
    dist.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=workers, timeout=timedelta(seconds=20)
    )
    for number, job in enumerate(jobs):
        result: Losses
        try:
            result = losses(job)
        except Exception as error:
            result = last_lines(error)
        Path(folder, f"{rank}.{number}").write_text(json.dumps(result), encoding="utf-8")
    dist.destroy_process_group()


def run_team(jobs: Sequence[Job], workers: int, seconds: float) -> Mapping[str, Losses]:
    """Run jobs on several processes; return each job's losses, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        members = [
            spawn().Process(target=_member, args=(rank, workers, folder, jobs), daemon=True) for rank in range(workers)
        ]
        for member in members:
            member.start()
        deadline = time.monotonic() + seconds
        for member in members:
            member.join(max(0.1, deadline - time.monotonic()))
            if member.is_alive():
                member.kill()
        return {job.name: _result(Path(folder), workers, number) for number, job in enumerate(jobs)}


def _result(folder: Path, workers: int, number: int) -> Losses:
    paths = [folder / f"{rank}.{number}" for rank in range(workers)]
    if not all(path.exists() for path in paths):
        return "the processes ended, or took too long"
    results: list[Any] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    errors = [result for result in results if isinstance(result, str)]
    return errors[0] if errors else list(results[0])
