"""Functions that run in Ray's processes: Tune's trials and Ray Train's workers.

A run with one worker trains in its trial's process, which is then reused for the next run. For several workers, the
trial drives a Ray Train ``TorchTrainer``. The launching process imports this module too, so torch is imported only
inside functions.
"""

import shutil
from collections.abc import Callable, Sequence
from typing import Any, cast

from eman.platform.errors import RunFailed, first_line
from eman.platform.store.records import new_id
from eman.sweeps.run.events import Event, Failed, Lost, Outcome, Preempted, Progress
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import Config, TrainJob

#: How often Ray Train restarts a run's workers after one of them died or failed.
_RESTARTS = 2

#: Find the job of a trial by its configuration.
Find = Callable[[Config], Any]


def train_trial(config: Config, find: Find) -> None:
    from eman.sweeps.run.train import train

    _use_one_thread()
    job: TrainJob = find(config).here()
    report = _to_tune()
    report(attempt(job.spec.key, lambda: train(job, report)))


def train_on_workers_trial(config: Config, find: Find) -> None:
    """Train one run on several workers and pass on their reports."""
    from ray.tune.integration.ray_train import TuneReportCallback

    job: TrainJob = find(config).here()
    try:
        train_on_workers(job, [TuneReportCallback()])
    except Exception as error:
        _to_tune()(Lost(job.spec.key, first_line(error)))


def evaluate_trial(config: Config, find: Find) -> None:
    """Carry out evaluations that share their computation."""
    from eman.sweeps.run.evaluate import evaluate

    _use_one_thread()
    evaluate(find(config).here(), _to_tune())


class _Reports:
    """Reports to Ray: each event, with the metrics of the last epoch, by which schedulers and tables compare.

    A scheduler, which compares at equal ``scheduled_epoch``, cannot stop a run after its last epoch.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send, self._last = send, dict[str, Any]()

    def __call__(self, event: Event) -> None:
        scheduled = {}
        if isinstance(event, Progress) and event.metrics:
            self._last = {"epoch": event.epoch, **event.metrics}
            scheduled = {"scheduled_epoch": event.epoch} if event.share < 1 else {}
        self._send({"event": event, **scheduled, **self._last})


def _to_tune() -> _Reports:
    from ray import tune

    return _Reports(tune.report)


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

    def leave() -> bool:
        return v2.get_preemption_info() is not None

    v2: Any = ray_train
    report = _Reports(v2.report)
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
