"""Train or evaluate one run in the foreground: `eman train` and `eman evaluate`."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar

from eman.evaluation.protocols.groups import eval_title, group_title
from eman.evaluation.trained import Trained
from eman.platform.cluster import cluster
from eman.platform.errors import UserError, first_line
from eman.platform.machine import cores
from eman.platform.store.records import EVALUATION, TRAINING, new_id
from eman.platform.store.store import Store
from eman.sweeps.changed import changed_modules
from eman.sweeps.checks import check_data, check_sizes, check_storage
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.run.evaluate import evaluate
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Progress
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import EvalJob, TrainJob, Workers, max_workers
from eman.sweeps.run.launch import resolve_lost
from eman.sweeps.run.options import largest_divisor
from eman.sweeps.run.train import train
from eman.sweeps.run.trials import train_on_workers
from eman.sweeps.runs import find_finished_run
from eman.sweeps.tables.scope import Scope
from eman.trainers.spec.labels import run_title
from eman.trainers.spec.run import RunSpec

#: What every method's loop measures, besides the measures of its loss.
_LOOP = ("loss", "images_per_second", "lr", "momentum", "feature_std", "skipped", "seconds")

_SHOWN = ("train/loss", "train/images_per_second", "accuracy/top1", "knn/top1", "test/top1", "test/knn_top1")


def train_in_foreground(
    spec: RunSpec, store: Store, *, profile: str, workers: Workers | str, command: str
) -> Iterator[str]:
    """Train one run and yield lines to print. With one worker, epochs are shown on standard error.

    `command` repeats it, for its description.

    Raises:
        UserError: The data is unsuitable, or the run failed.
    """
    title = run_title(spec)
    known = store.by_key(TRAINING, [spec.key]).get(spec.key)
    if known is not None and known.status == "done":
        yield f"{title} ({spec.key}) is already done; another --seed or --set makes another run"
        yield from changed_modules([spec], {spec.key: known})
        yield _summary(spec, known.metrics)
        return
    check_storage(store.workspace)
    check_data([spec], store.workspace)
    if isinstance(workers, str):
        workers = largest_divisor(spec.norm.devices, cores())
    yield f"{title} ({spec.key}), {spec.optim.epochs} epochs"
    job = TrainJob(
        spec=spec,
        title=title,
        profile=profile,
        workspace=store.workspace,
        launch=new_id(),
        workers=workers,
        command=command,
    )
    outcome = _train_here(job) if workers == 1 else _train_on_workers(job, store)
    if not isinstance(outcome, Done):
        raise UserError(f"{title} {'failed' if isinstance(outcome, Failed) else 'was not trained'}: {outcome.reason}")
    yield _summary(spec, store.by_key(TRAINING, [spec.key])[spec.key].metrics)
    yield f"networks: {store.workspace.run_folder(spec.key)}"


def _train_here(job: TrainJob) -> Outcome:
    """Train in this process, with a line per epoch and, on a terminal, a progress bar."""
    console, epochs = Console(file=sys.stderr, highlight=False), job.spec.optim.epochs
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("loading data", total=None)

        def show(event: Event) -> None:
            if isinstance(event, Progress):
                bar.update(task, description="training", completed=event.share, total=1.0)
                if event.metrics:
                    line = f"epoch {round(event.share * epochs)}/{epochs}  {_summary(job.spec, event.metrics)}"
                    console.print(line, markup=False, soft_wrap=True)

        return attempt(job.spec.key, lambda: train(job, show))


def _train_on_workers(job: TrainJob, store: Store) -> Outcome:
    with cluster(cpus=max(max_workers(job.workers), cores())):
        try:
            return train_on_workers(job)
        except Exception as error:
            return resolve_lost(store, TRAINING, Lost(job.spec.key, first_line(error)), job.launch)


def evaluate_in_foreground(
    prefix: str, store: Store, protocol: str, network: str, selection: str, fields: Mapping[str, Any]
) -> Iterator[str]:
    """Evaluate the finished run whose key begins with `prefix`, and yield lines to print.

    `fields` override the evaluation fields of the run's profile; an imported network has `imagenet`'s.

    Raises:
        UserError: No such run exists, it is not finished, or the evaluation failed.
    """
    record = find_finished_run(prefix, store)
    profile = PROFILES.get(record.tags.get("profile", ""), IMAGENET)
    run = Trained(record.key, store.workspace).spec
    specs = Scope(profile=profile, network=network, selection=selection).evaluations(run, protocol, fields)
    known = store.by_key(EVALUATION, [spec.key for spec in specs])
    outcomes: dict[str, Outcome] = {
        key: Done(key, metrics=known[key].metrics) for key in known if known[key].status == "done"
    }
    missing = tuple(spec for spec in specs if spec.key not in outcomes)
    if missing:
        check_sizes((spec, run) for spec in missing)
        check_data([], store.workspace, [(spec, run) for spec in missing])
        tags = {
            name: record.tags[name]
            for name in ("profile", "method", "scheme", "mlflow.runColor")
            if name in record.tags
        }
        job = EvalJob(
            specs=missing,
            title=record.name,
            tags=tags,
            workspace=store.workspace,
            launch=new_id(),
            parent=record.run_id,
        )

        def note(event: Event) -> None:
            if isinstance(event, Outcome):
                outcomes[event.key] = event

        evaluate(job, note)
        first = outcomes[missing[0].key]
        if isinstance(first, Failed | Lost) and not any(isinstance(outcome, Done) for outcome in outcomes.values()):
            raise UserError(f"{record.name} · {group_title(missing)} failed: {first.reason}")
    for spec in specs:
        outcome = outcomes[spec.key]
        reused = "" if spec in missing else " is already done"
        state = f" failed: {outcome.reason}" if isinstance(outcome, Failed | Lost) else reused
        yield f"{record.name} · {eval_title(spec)} ({spec.key}){state}"
        if isinstance(outcome, Done):
            yield from (f"  {name} {value:.2f}" for name, value in outcome.metrics.items())


def _summary(spec: RunSpec, metrics: Mapping[str, float]) -> str:
    measures = [name.removeprefix("train/") for name in metrics if name.startswith("train/")]
    shown = spec.entry.shown
    own = [f"train/{name}" for name in measures if (name not in _LOOP if shown is None else name in shown)]
    return "  ".join(f"{name} {metrics[name]:,.4g}" for name in (*_SHOWN, *own) if name in metrics)
