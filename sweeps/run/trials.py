"""What runs in Ray's processes: the functions of Tune's trials, and Ray Train's workers.

A run of one worker trains inside its trial's process, which then takes the next run. A run of several workers is one
Ray Train ``TorchTrainer``, which its trial drives. The process that launches imports this module, so that it imports
torch only inside functions.
"""

import shutil
from collections.abc import Sequence
from typing import Any, cast

from eman.platform.errors import RunFailed, first_line
from eman.platform.store.records import new_id
from eman.sweeps.run.events import Event, Failed, Lost, Outcome
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import EvalJob, TrainJob

#: How often Ray Train starts a run's workers again after one of them died or failed.
_RESTARTS = 2


def train_trial(config: dict[str, TrainJob]) -> None:
    """Train one run in this process."""
    from eman.sweeps.run.train import train

    _use_one_thread()
    job = config["job"]
    _report(attempt(job.spec.key, lambda: train(job, _report)))


def train_on_workers_trial(config: dict[str, TrainJob]) -> None:
    """Train one run on several workers; their reports become this trial's."""
    from ray.tune.integration.ray_train import TuneReportCallback

    job = config["job"]
    try:
        train_on_workers(job, [TuneReportCallback()])
    except Exception as error:
        _report(Lost(job.spec.key, first_line(error)))


def evaluate_trial(config: dict[str, EvalJob]) -> None:
    """Carry out evaluations that share their computation."""
    from eman.sweeps.run.evaluate import evaluate

    _use_one_thread()
    evaluate(config["job"], _report)


def _report(event: Event) -> None:
    from ray import tune

    tune.report({"event": event})


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train_on_workers(job: TrainJob, callbacks: Sequence[Any] = ()) -> Outcome:
    """Train one run by a Ray Train ``TorchTrainer``: DDP over gloo or NCCL.

    A worker that dies is replaced, and the run goes on from its own checkpoint. If ``job.workers`` is a range, Ray
    Train may change their number meanwhile.

    Args:
        job: The training.
        callbacks: Ray Train's callbacks.

    Raises:
        Exception: Workers died or failed too often.
    """
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    v2: Any = ray_train  # the classes of Train V2, which its type hints do not show
    # Ray Train resumes a run of a name that it knows; ours resume from their own checkpoints.
    name = f"train-{new_id()}"
    folder = job.workspace.ray_folder
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
        outcome: Outcome = trainer.fit().return_value
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
    return outcome


def _worker(config: dict[str, TrainJob]) -> Outcome:
    """Train as one of several workers. All of them make the same reports; Ray Train takes worker 0's."""
    from ray import train as ray_train

    from eman.sweeps.run.train import train

    def report(event: Event) -> None:
        ray_train.report({"event": event})

    _use_one_thread()
    job = config["job"]
    try:
        outcome = train(job, report)
    except RunFailed as error:  # a loss that is not finite is so on every worker
        outcome = Failed(job.spec.key, str(error))
    # Anything else is raised: the other workers wait for this one, and Ray Train starts them all again.
    report(outcome)
    return outcome
