"""Functions that run in Ray's processes: Tune's trials and Ray Train's workers.

A run with one worker trains in its trial's process, which is then reused for the next run. For several workers, the
trial drives a Ray Train ``TorchTrainer``. The launching process imports this module too, so torch is imported only
inside functions.
"""

import shutil
from collections.abc import Sequence
from typing import Any, cast

from eman.platform.errors import RunFailed, first_line
from eman.platform.store.records import new_id
from eman.sweeps.run.events import Event, Failed, Lost, Outcome, Preempted
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import EvalJob, TrainJob

#: How often Ray Train restarts a run's workers after one of them died or failed.
_RESTARTS = 2


def train_trial(config: dict[str, TrainJob]) -> None:
    from eman.sweeps.run.train import train

    _use_one_thread()
    job = config["job"].here()
    _report(attempt(job.spec.key, lambda: train(job, _report)))


def train_on_workers_trial(config: dict[str, TrainJob]) -> None:
    """Train one run on several workers and pass on their reports."""
    from ray.tune.integration.ray_train import TuneReportCallback

    job = config["job"].here()
    try:
        train_on_workers(job, [TuneReportCallback()])
    except Exception as error:
        _report(Lost(job.spec.key, first_line(error)))


def evaluate_trial(config: dict[str, EvalJob]) -> None:
    """Carry out evaluations that share their computation."""
    from eman.sweeps.run.evaluate import evaluate

    _use_one_thread()
    evaluate(config["job"].here(), _report)


def _report(event: Event) -> None:
    from ray import tune

    tune.report({"event": event})


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_on_workers(job: TrainJob, callbacks: Sequence[Any] = ()) -> Outcome:
    """Train one run with a Ray Train ``TorchTrainer``: DDP over gloo or NCCL.

    A worker that dies is replaced, and the run resumes from its checkpoint. If a node is about to go, the run saves a
    checkpoint and starts again on other nodes, which does not count as a failure. If ``job.workers`` is a range, Ray
    Train may change their number during the run.

    Raises:
        Exception: Workers died or failed too often.
    """
    outcome = _fit(job, callbacks)
    while isinstance(outcome, Preempted):
        outcome = _fit(job, callbacks)
    return outcome


def _fit(job: TrainJob, callbacks: Sequence[Any]) -> Outcome:
    """Train until the run has ended or a node is about to go."""
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    v2: Any = ray_train  # its type hints lack the classes of Train V2
    # A unique name keeps Ray Train from resuming an earlier run; runs resume from their own checkpoints.
    name, folder = f"train-{new_id()}", job.workspace.ray_folder
    trainer: Any = TorchTrainer(
        cast("Any", _worker),
        train_loop_config={"job": job},
        scaling_config=v2.ScalingConfig(
            num_workers=job.workers,
            resources_per_worker=dict(job.resources),
            use_gpu=job.resources.get("GPU", 0) > 0,
        ),
        run_config=v2.RunConfig(
            name=name,
            storage_path=str(folder),
            failure_config=v2.FailureConfig(max_failures=_RESTARTS, controller_failure_limit=1),
            logging_config=v2.LoggingConfig(log_level="ERROR"),
            callbacks=list(callbacks),
        ),
    )
    try:
        return cast("Outcome", trainer.fit().return_value)
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


def _worker(config: dict[str, TrainJob]) -> Outcome:
    """Train as one of several workers. All make the same reports; Ray Train uses worker 0's."""
    from ray import train as ray_train

    from eman.sweeps.run.train import train

    def report(event: Event) -> None:
        ray_train.report({"event": event})

    def leave() -> bool:
        return v2.get_preemption_info() is not None

    v2: Any = ray_train
    _use_one_thread()
    job = config["job"].here()
    try:
        outcome = train(job, report, leave)
    except RunFailed as error:  # every worker fails alike, for example on a loss that is not finite
        outcome = Failed(job.spec.key, str(error))
    # Other errors propagate: the other workers wait for this one, and Ray Train restarts them all.
    if not isinstance(outcome, Preempted):
        report(outcome)
    return outcome
