"""Carry out an evaluation job: claim, evaluate, record in the store."""

import shlex
from collections.abc import Sequence
from functools import lru_cache, partial

from eman.evaluation.protocols.groups import eval_title, group_key
from eman.evaluation.protocols.groups import evaluate as compute
from eman.evaluation.protocols.protocol import Measured
from eman.evaluation.protocols.registry import PROTOCOLS
from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.trained import Trained
from eman.platform import modules
from eman.platform.errors import BusyError
from eman.platform.output import locked
from eman.platform.store.records import EVALUATION, SWEEP_ID
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.sweeps.run.events import Done, Lost, Outcome, Report
from eman.sweeps.run.failures import attempt, failure_recorded
from eman.sweeps.run.inputs import evaluation_inputs
from eman.sweeps.run.jobs import EvalJob

#: The runs evaluated last, whose features later jobs share.
_trained = lru_cache(maxsize=2)(Trained)


def evaluate(job: EvalJob, report: Report) -> None:
    """Carry out a job's evaluations and report the outcome of each."""
    first, logs = job.specs[0], dict[EvalSpec, RunLog]()
    with locked(job.workspace.lock_file(first.run, f"{group_key(first)}.lock")) as acquired:
        for spec in job.specs:
            try:
                if not acquired:
                    raise BusyError("another process on this machine is running it")
                logs[spec] = _begin(spec, job)
            except BusyError as error:
                report(Lost(spec.key, str(error)))
        for (spec, log), result in zip(logs.items(), _results(list(logs), job), strict=True):
            report(attempt(spec.key, partial(_finish, spec, log, result, job)))


def _begin(spec: EvalSpec, job: EvalJob) -> RunLog:
    return Store(job.workspace, patient=True).begin(
        EVALUATION,
        spec.key,
        f"{job.title} · {eval_title(spec)}",
        params=spec.flat(),
        parent=job.parent,
        tags={
            **job.tags,
            "mlflow.note.content": _about(spec, job.title),
            "eman.run": spec.run,
            "eman.launch": job.launch,
            SWEEP_ID: job.sweep,
            **modules.tags([PROTOCOLS.origin(spec.protocol.name)]),
        },
    )


def _about(spec: EvalSpec, title: str) -> str:
    """Return what an evaluation is, and a command that repeats it with the values of its run's profile."""
    flat = spec.flat()
    fields = [f"{name}={flat[name]}" for name in (*spec.entry.shown, "dataset") if name in flat]
    command = ["eman", "evaluate", spec.run, "--protocol", spec.protocol.name]
    command += ["--network", spec.network, "--selection", spec.selection]
    command += [word for field in fields for word in ("--set", field)]
    return (
        f"{eval_title(spec)}: the {spec.network} after the {spec.selection} epoch of {title}.\n\n"
        f"This command repeats it:\n\n    {shlex.join(command)}\n"
    )


def _results(specs: Sequence[EvalSpec], job: EvalJob) -> Sequence[Measured | Exception]:
    """Return each evaluation's result, or its error."""
    if not specs:
        return []
    first = specs[0]
    try:
        return compute(specs, _trained(first.run, job.workspace, first.network, first.selection, first.dataset))
    except Exception as error:
        return [error] * len(specs)


def _finish(spec: EvalSpec, log: RunLog, result: Measured | Exception, job: EvalJob) -> Outcome:
    with failure_recorded(log):
        if isinstance(result, Exception):
            raise result
        trained = _trained(spec.run, job.workspace, spec.network, spec.selection, spec.dataset)
        log.finish(dict(result.metrics), inputs=evaluation_inputs(spec, trained))
    return Done(spec.key, metrics=result.metrics)
