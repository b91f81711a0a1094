"""Carry out an evaluation job: claim, evaluate, record in the store."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from eman.evaluation.protocols import groups as protocols
from eman.evaluation.protocols.protocol import Measured
from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.trained import Trained
from eman.platform.errors import BusyError
from eman.platform.lock import locked
from eman.platform.store.records import EVALUATION
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Workspace
from eman.sweeps.run.events import Done, Lost, Outcome, Report
from eman.sweeps.run.failures import attempt, failure_recorded
from eman.sweeps.run.jobs import EvalJob


def evaluate(job: EvalJob, report: Report) -> None:
    """Carry out a job's evaluations and report the outcome of each."""
    with _claim(job, report) as logs:
        specs = [spec for spec in job.specs if spec.key in logs]
        if not specs:
            return
        for spec, result in zip(specs, _results(specs, job.workspace), strict=True):

            def finish(spec: EvalSpec = spec, result: Measured | Exception = result) -> Outcome:
                with failure_recorded(logs[spec.key]):
                    if isinstance(result, Exception):
                        raise result
                    logs[spec.key].finish(dict(result.metrics))
                return Done(spec.key, metrics=result.metrics)

            report(attempt(spec.key, finish))


@contextlib.contextmanager
def _claim(job: EvalJob, report: Report) -> Iterator[dict[str, RunLog]]:
    """Claim the evaluations and yield their logs by key; report those that another process has as lost."""
    first, logs = job.specs[0], dict[str, RunLog]()
    with locked(job.workspace.run_folder(first.run) / f"{protocols.group_key(first)}.lock") as acquired:
        for spec in job.specs:
            if not acquired:
                report(Lost(spec.key, "another process on this machine is running it"))
                continue
            try:
                logs[spec.key] = _begin(spec, job)
            except BusyError as error:
                report(Lost(spec.key, str(error)))
        yield logs


def _begin(spec: EvalSpec, job: EvalJob) -> RunLog:
    return Store(job.workspace, patient=True).begin(
        EVALUATION,
        spec.key,
        f"{job.title} · {protocols.eval_title(spec)}",
        params=spec.flat(),
        parent=job.parent,
        tags={**job.tags, "eman.run": spec.run, "eman.launch": job.launch},
    )


@lru_cache(maxsize=2)
def _trained(run: str, workspace: Workspace, network: str, selection: str, dataset: str | None) -> Trained:
    """Return the run to evaluate, cached so that later jobs share its features."""
    return Trained(run, workspace, network, selection, dataset)


def _results(specs: Sequence[EvalSpec], workspace: Workspace) -> Sequence[Measured | Exception]:
    """Return each evaluation's result, or its error."""
    first = specs[0]
    try:
        return protocols.evaluate(specs, _trained(first.run, workspace, first.network, first.selection, first.dataset))
    except Exception as error:
        return [error] * len(specs)
