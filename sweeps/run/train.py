"""Carry out a training job: claim, train, record in the store."""

import contextlib
import time
from collections.abc import Iterator

from eman.evaluation import measure
from eman.platform import checkpoint
from eman.platform.errors import BusyError
from eman.platform.output import locked
from eman.platform.store.records import SWEEP_ID, TRAINING
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.usage import Usage
from eman.sweeps.run.events import Done, Lost, Outcome, Preempted, Progress, Report
from eman.sweeps.run.failures import failure_recorded
from eman.sweeps.run.inputs import training_inputs
from eman.sweeps.run.jobs import TrainJob
from eman.trainers import distributed
from eman.trainers.data import label_sets
from eman.trainers.loop import Leave, fit
from eman.trainers.spec.labels import about_run, record_params, record_tags

#: Seconds between reports within an epoch.
_REPORT_SECONDS = 2.0


def train(job: TrainJob, report: Report, leave: Leave | None = None) -> Outcome:
    """Train one run, in this process or as one of several workers. Only worker 0 writes to the store.

    `report` gets the progress, on every worker. The outcome is ``Lost`` if another process has claimed the run, and
    ``Preempted`` if `leave` ended it.

    Raises:
        Exception: The run failed; the reason is in the store.
    """
    with contextlib.ExitStack() as stack:
        log, busy = None, ""
        if distributed.rank() == 0:
            try:
                log = stack.enter_context(_claim(job))
            except BusyError as error:
                busy = str(error)
        if not distributed.agreed(not busy):
            return Lost(job.spec.key, busy)
        with failure_recorded(log):
            return _train(job, log, report, leave)


@contextlib.contextmanager
def _claim(job: TrainJob) -> Iterator[RunLog]:
    """Create or resume the run in the store, so that no other process trains it."""
    spec = job.spec
    repeat = f"\n\nThis command repeats it:\n\n    {job.command}\n" if job.command else ""
    tags = {
        **record_tags(spec, job.profile),
        "mlflow.note.content": about_run(spec) + repeat,
        "eman.workers": str(job.workers),
        "eman.launch": job.launch,
        "eman.collapse_rule": spec.execution.collapse_rule,
        SWEEP_ID: job.sweep,
    }
    with locked(job.workspace.lock_file(spec.key)) as acquired:
        if not acquired:
            raise BusyError("another process on this machine is running it")
        store = Store(job.workspace, patient=True)
        params = record_params(spec)
        yield store.begin(
            TRAINING,
            spec.key,
            job.title,
            tags=tags,
            parent=job.parent,
            params=params,
            previous_owner=job.previous_owner,
        )


def _train(job: TrainJob, log: RunLog | None, report: Report, leave: Leave | None) -> Done | Preempted:
    """Train; on worker 0, which has a ``log``, also measure the final networks."""
    spec, folder = job.spec, job.workspace.run_folder(job.spec.key)
    usage = Usage()
    alone = distributed.workers() == 1  # several workers must make the same reports, so only at epochs
    reported = 0.0
    if not alone:
        report(Progress(spec.key, 0.0))

    def epoch_done(number: int, metrics: dict[str, float]) -> None:
        if log is not None:
            log.epoch(number, metrics | usage.take(), number / spec.optim.epochs)
        report(Progress(spec.key, number / spec.optim.epochs, metrics, number))

    def step_done(step: int, steps: int) -> None:
        nonlocal reported
        if log is not None:
            log.beat(step / steps)
            usage.sample()
        if alone and time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            report(Progress(spec.key, step / steps))

    outcome = fit(
        spec,
        job.workspace,
        folder=folder,
        monitor=measure.monitor,
        on_epoch=epoch_done,
        on_step=step_done,
        leave=leave,
        on_point=None if log is None else log.point,
        save_epochs=job.stoppable,
    )
    if not outcome.finished:
        if log is not None:
            log.interrupt()
        return Preempted(spec.key, "one of its nodes is about to go")
    if log is None:
        return Done(spec.key, outcome.seconds)
    metrics = measure.final(outcome.training, folder, outcome.best_epoch)
    tags = {"eman.data_hash": outcome.training.dataset.hash, "eman.best_epoch": str(outcome.best_epoch)}
    if outcome.training.labelled is not None:
        tags["eman.label_set_hash"] = label_sets.fingerprint(outcome.training.labelled)
    inputs = training_inputs(outcome.training, job.workspace)
    log.finish(metrics | {"train/seconds": outcome.seconds} | usage.take(last=True), tags, inputs)
    checkpoint.remove_newest(folder)
    return Done(spec.key, outcome.seconds, metrics)
