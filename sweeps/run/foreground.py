"""One run in the foreground: ``eman train``."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eman.evaluation.protocols.registry import eval_title, make_eval
from eman.evaluation.trained import Trained
from eman.platform.cluster import cluster
from eman.platform.errors import UserError, first_line
from eman.platform.machine import cores
from eman.platform.store.store import EVALUATION, TRAINING, Record, Store, new_id
from eman.sweeps.checks import check_data
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.run import trial
from eman.trainers.methods.registry import run_title
from eman.trainers.spec.run import RunSpec


def train_in_foreground(spec: RunSpec, store: Store, *, profile: Profile, workers: trial.Workers) -> Iterator[str]:
    """Trains one run and yields lines for a person, epoch by epoch where this process trains it.

    Raises:
        UserError: The data or the number of workers does not do, or the run failed.
    """
    title = run_title(spec)
    trial.check_workers(workers, spec.devices)
    known = store.by_key(TRAINING).get(spec.key)
    if known is not None and known.status == "done":
        yield f"{title} ({spec.key}) is done already; another --seed or --set makes another run"
        yield _summary(known.metrics)
        return
    check_data([spec], store.workspace)
    if isinstance(workers, str):
        workers = trial.divisor(spec.devices, cores())
    config = trial.training_config(spec, store, profile=profile.name, parent=None, workers=workers)
    yield f"{title} ({spec.key}), {spec.epochs} epochs"
    if workers != 1:
        most = workers[1] if isinstance(workers, tuple) else workers
        with cluster(cpus=max(most, cores())):
            try:
                [outcome] = trial.train_on_workers([config])
            except Exception as error:
                outcome = trial.lost(TRAINING, spec.key, config, first_line(error))
    else:
        outcome = _here(spec, config)
    if outcome["status"] != "done":
        raise UserError(f"{title} failed: {outcome['reason']}")
    yield _summary(store.by_key(TRAINING)[spec.key].metrics)
    yield f"networks: {store.workspace.run_folder(spec.key)}"


def evaluate_in_foreground(start: str, store: Store, protocol: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """Evaluates one finished run and yields lines for a person.

    Args:
        start: Key of the run, or how it begins.
        store: Where it is, and where the evaluation goes.
        protocol: A name in :data:`~eman.evaluation.protocols.registry.PROTOCOLS`.
        fields: EvalSpec fields that override the paper's values.

    Raises:
        UserError: There is no such run, it is not done, or the evaluation failed.
    """
    record = found_run(start, store.by_key(TRAINING))
    spec = make_eval(protocol, record.key, **fields)
    title = f"{record.name} · {eval_title(spec)}"
    known = store.by_key(EVALUATION).get(spec.key)
    if known is not None and known.status == "done":
        yield f"{title} ({spec.key}) is done already"
        metrics = known.metrics
    else:
        tags = {name: record.tags[name] for name in ("profile", "method", "scheme") if name in record.tags}
        config = {"specs": [spec.fields()], "workspace": store.workspace, "parent": record.run_id, "title": record.name}
        outcome = trial.evaluate_runs(config | {"tags": tags, "launch": new_id()})
        if outcome["status"] != "done":
            raise UserError(f"{title} failed: {outcome['reason']}")
        yield f"{title} ({spec.key})"
        metrics = outcome["outcomes"][spec.key]["metrics"]
    for name, value in metrics.items():
        yield f"  {name} {value:.2f}"


def start_of(start: str, store: Store) -> RunSpec:
    """The specification of the finished run to start from, by how its key begins.

    Raises:
        UserError: There is no such run, or its networks are gone.
    """
    record = found_run(start, store.by_key(TRAINING))
    return Trained(record.key, store.workspace).spec


def found_run(start: str, records: Mapping[str, Record]) -> Record:
    """The finished training whose key begins so; raises :class:`UserError`, with the nearest, if there is none."""
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


def _here(spec: RunSpec, config: trial.Config) -> dict[str, object]:
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("training", total=None)

        def epoch_done(number: int, metrics: dict[str, float]) -> None:
            console.print(f"epoch {number}/{spec.epochs}  {_summary(metrics)}", markup=False, soft_wrap=True)

        return trial.train_run(config, epoch_done, lambda step, steps: bars.update(task, completed=step, total=steps))


def _summary(metrics: object) -> str:
    assert isinstance(metrics, dict)
    shown = ("train/loss", "train/images_per_second", "accuracy/top1", "knn/top1", "test/top1", "test/knn_top1")
    return "  ".join(f"{name} {metrics[name]:,.4g}" for name in shown if name in metrics)
