"""Train or evaluate one run in the foreground: `eman train` and `eman evaluate`."""

from collections.abc import Iterator, Mapping
from typing import Any

from eman.evaluation.protocols.groups import eval_title, group_title
from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.trained import Trained
from eman.platform.cluster import cluster
from eman.platform.errors import UserError, first_line
from eman.platform.machine import cores
from eman.platform.store.records import EVALUATION, TRAINING, Record, new_id
from eman.platform.store.store import Store
from eman.sweeps.checks import check_data, check_sizes, check_workers
from eman.sweeps.find import find_finished_run
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.run.evaluate import evaluate
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Progress
from eman.sweeps.run.failures import attempt
from eman.sweeps.run.jobs import EvalJob, TrainJob, Workers, max_workers
from eman.sweeps.run.launch import resolve_lost
from eman.sweeps.run.options import largest_divisor
from eman.sweeps.run.train import train
from eman.sweeps.run.trials import train_on_workers
from eman.sweeps.tables.scope import Scope
from eman.sweeps.view.bar import TrainingBar
from eman.trainers.spec.labels import run_title
from eman.trainers.spec.run import RunSpec

_SHOWN = ("train/loss", "train/images_per_second", "accuracy/top1", "knn/top1", "test/top1", "test/knn_top1")


def train_in_foreground(spec: RunSpec, store: Store, *, profile: str, workers: Workers | str) -> Iterator[str]:
    """Train one run and yield lines to print. With one worker, epochs are shown on standard error.

    Raises:
        UserError: The data or the number of workers is unsuitable, or the run failed.
    """
    title = run_title(spec)
    check_workers(workers, spec.norm.devices)
    known = store.by_key(TRAINING, [spec.key]).get(spec.key)
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
        yield _summary(store.by_key(TRAINING, [spec.key])[spec.key].metrics)
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
    with cluster(cpus=max(max_workers(job.workers), cores())):
        try:
            return train_on_workers(job)
        except Exception as error:
            return resolve_lost(store, TRAINING, Lost(job.spec.key, first_line(error)), job.launch)


def evaluate_in_foreground(
    prefix: str, store: Store, protocol: str, network: str, selection: str, fields: Mapping[str, Any]
) -> Iterator[str]:
    """Evaluate one finished run and yield lines to print.

    Args:
        prefix: Key of the run, or its beginning.
        store: Store of the run and its evaluations.
        protocol: A protocol's name.
        network: The network to evaluate.
        selection: The epoch to evaluate.
        fields: Evaluation fields that override those of the run's profile.

    Raises:
        UserError: No such run exists, it is not finished, or the evaluation failed.
    """
    record = find_finished_run(prefix, store)
    scope = Scope(profile=_profile_of(record), network=network, selection=selection)
    run = Trained(record.key, store.workspace).spec
    specs = scope.evaluations(run, protocol, fields)
    known = store.by_key(EVALUATION, [spec.key for spec in specs])
    outcomes: dict[str, Event] = {
        spec.key: Done(spec.key, metrics=known[spec.key].metrics)
        for spec in specs
        if spec.key in known and known[spec.key].status == "done"
    }
    missing = tuple(spec for spec in specs if spec.key not in outcomes)
    if missing:
        check_sizes((spec, run) for spec in missing)
        check_data([], store.workspace, [(spec, run) for spec in missing])
        outcomes |= _evaluate_here(missing, record, store)
    if not any(isinstance(outcome, Done) for outcome in outcomes.values()):
        raise UserError(f"{record.name} · {group_title(missing)} failed: {_reason(outcomes[missing[0].key])}")
    for spec in specs:
        outcome = outcomes[spec.key]
        state = _reason(outcome) or ("" if spec in missing else "is already done")
        yield f"{record.name} · {eval_title(spec)} ({spec.key}) {state}".rstrip()
        if isinstance(outcome, Done):
            yield from (f"  {name} {value:.2f}" for name, value in outcome.metrics.items())


def _profile_of(record: Record) -> Profile:
    """Return the profile of a run; `imagenet` for an imported network."""
    return PROFILES.get(record.tags.get("profile", ""), IMAGENET)


def _evaluate_here(specs: tuple[EvalSpec, ...], record: Record, store: Store) -> dict[str, Event]:
    """Carry out evaluations of one run in this process and return their outcomes by key."""
    job = EvalJob(
        specs=specs,
        title=record.name,
        tags={name: record.tags[name] for name in ("profile", "method", "scheme") if name in record.tags},
        workspace=store.workspace,
        launch=new_id(),
        parent=record.run_id,
    )
    outcomes: list[Event] = []
    evaluate(job, outcomes.append)
    return {outcome.key: outcome for outcome in outcomes if isinstance(outcome, Done | Failed | Lost)}


def _reason(outcome: Event) -> str:
    return f"failed: {outcome.reason}" if isinstance(outcome, Failed | Lost) else ""


def starting_run(start: str, store: Store) -> RunSpec:
    """Return the specification of the finished run to start from, by its key or the beginning of it.

    Raises:
        UserError: No such run exists, or its networks are gone.
    """
    record = find_finished_run(start, store)
    return Trained(record.key, store.workspace).spec


def _summary(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:,.4g}" for name in _SHOWN if name in metrics)
