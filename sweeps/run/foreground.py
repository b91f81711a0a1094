"""One run in the foreground: `eman train` and `eman evaluate`."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from eman.evaluation.protocols.groups import eval_title
from eman.evaluation.protocols.spec import make_eval
from eman.evaluation.trained import Trained
from eman.platform.cluster import cluster
from eman.platform.errors import UserError, first_line
from eman.platform.machine import cores
from eman.platform.store.records import EVALUATION, TRAINING, Record, new_id
from eman.platform.store.store import Store
from eman.sweeps.checks import check_data
from eman.sweeps.run.evaluate import evaluate
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Progress
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import EvalJob, TrainJob, Workers, most
from eman.sweeps.run.launch import settle
from eman.sweeps.run.options import check_workers, largest_divisor
from eman.sweeps.run.train import train
from eman.sweeps.run.trials import train_on_workers
from eman.sweeps.view.bar import TrainingBar
from eman.trainers.spec.labels import run_title
from eman.trainers.spec.run import RunSpec

_SHOWN = ("train/loss", "train/images_per_second", "accuracy/top1", "knn/top1", "test/top1", "test/knn_top1")


def train_in_foreground(spec: RunSpec, store: Store, *, profile: str, workers: Workers | str) -> Iterator[str]:
    """Train one run and yield lines for a person; epochs are shown where this process trains it.

    Raises:
        UserError: The data or the number of workers does not do, or the run failed.
    """
    title = run_title(spec)
    check_workers(workers, spec.norm.devices)
    known = store.by_key(TRAINING).get(spec.key)
    if known is not None and known.status == "done":
        yield f"{title} ({spec.key}) is already done; another --seed or --set makes another run"
        yield _summary(known.metrics)
        return
    check_data([spec], store.workspace)
    if isinstance(workers, str):
        workers = largest_divisor(spec.norm.devices, cores())
    yield f"{title} ({spec.key}), {spec.optim.epochs} epochs"
    job = TrainJob(spec=spec, title=title, profile=profile, workspace=store.workspace, launch=new_id(), workers=workers)
    outcome = _train_here(job) if workers == 1 else _train_on_workers(job, store)
    if isinstance(outcome, Done):
        yield _summary(store.by_key(TRAINING)[spec.key].metrics)
        yield f"networks: {store.workspace.run_folder(spec.key)}"
        return
    raise UserError(f"{title} {'failed' if isinstance(outcome, Failed) else 'was not trained'}: {outcome.reason}")


def _train_here(job: TrainJob) -> Outcome:
    with TrainingBar() as bar:

        def show(event: Event) -> None:
            if isinstance(event, Progress):
                bar.update(event.share)
                if event.metrics:
                    epochs = job.spec.optim.epochs
                    bar.say(f"epoch {round(event.share * epochs)}/{epochs}  {_summary(event.metrics)}")

        return attempt(job.spec.key, lambda: train(job, show))


def _train_on_workers(job: TrainJob, store: Store) -> Outcome:
    with cluster(cpus=max(most(job.workers), cores())):
        try:
            return train_on_workers(job)
        except Exception as error:
            return settle(store, TRAINING, Lost(job.spec.key, first_line(error)), job.launch)


def evaluate_in_foreground(start: str, store: Store, protocol: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """Evaluate one finished run and yield lines for a person.

    Args:
        start: Key of the run, or its beginning.
        store: Where it is, and where the evaluation goes.
        protocol: A name in :data:`~eman.evaluation.protocols.registry.PROTOCOLS`.
        fields: Fields of the evaluation that override the paper's values.

    Raises:
        UserError: There is no such run, it is not done, or the evaluation failed.
    """
    record = find_run(start, store.by_key(TRAINING))
    spec = make_eval(protocol, record.key, **fields)
    title = f"{record.name} · {eval_title(spec)}"
    known = store.by_key(EVALUATION).get(spec.key)
    if known is not None and known.status == "done":
        yield f"{title} ({spec.key}) is already done"
        yield from (f"  {name} {value:.2f}" for name, value in known.metrics.items())
        return
    check_data([], store.workspace, [(spec, Trained(record.key, store.workspace).spec)])
    job = EvalJob(
        specs=(spec,),
        title=record.name,
        tags={name: record.tags[name] for name in ("profile", "method", "scheme") if name in record.tags},
        workspace=store.workspace,
        launch=new_id(),
        parent=record.run_id,
    )
    outcomes: list[Event] = []
    evaluate(job, outcomes.append)
    [outcome] = outcomes
    if not isinstance(outcome, Done):
        raise UserError(f"{title} failed: {outcome.reason}" if isinstance(outcome, Failed | Lost) else title)
    yield f"{title} ({spec.key})"
    yield from (f"  {name} {value:.2f}" for name, value in outcome.metrics.items())


def starting_run(start: str, store: Store) -> RunSpec:
    """Return the specification of the finished run to start from, given its key or the key's beginning.

    Raises:
        UserError: There is no such run, or its networks are gone.
    """
    record = find_run(start, store.by_key(TRAINING))
    return Trained(record.key, store.workspace).spec


def find_run(start: str, records: Mapping[str, Record]) -> Record:
    """Return the finished training whose key begins so.

    Raises:
        UserError: There is none, or it is not done; the message names the nearest.
    """
    matching = [record for key, record in records.items() if key.startswith(start)]
    if len(matching) != 1:
        keys = [record.key for record in matching] or get_close_matches(start, records, n=3, cutoff=0.0)
        what = "several runs begin so" if matching else "there is no such run"
        named = ", ".join(f"{key} ({records[key].name})" for key in keys[:3])
        raise UserError(
            f"run {start!r}: {what}{f'; nearest: {named}' if named else ''}. `eman status --runs` lists them."
        )
    [record] = matching
    if record.status != "done":
        reason = f" ({record.reason})" if record.reason else ""
        raise UserError(
            f"run {record.key} ({record.name}) is {record.status}{reason}; only finished runs are evaluated."
        )
    return record


def _summary(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:,.4g}" for name in _SHOWN if name in metrics)
