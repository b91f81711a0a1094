"""Copying what one store holds to another: nothing lost, nothing twice, however often it is tried."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlparse

from eman.platform.errors import UserError
from eman.platform.lock import locked
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING, Record
from eman.platform.store.store import Store, existing_store
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

T = TypeVar("T")

_PARENT, _NOTE, _SOURCE = "mlflow.parentRunId", "mlflow.note.content", "eman.copied_from"

#: The most that MLflow's servers take in one request.
_MOST_AT_ONCE = {"params": 100, "metrics": 1000, "tags": 100}


@dataclass
class Copied:
    """Names of the runs that :func:`migrate` looked at.

    Attributes:
        copied: New in the target.
        updated: Copied earlier, and brought up to date.
        there: Copied earlier; nothing to do.
        running: Skipped because a process is running them; migrate again when they have ended.
        kept: Skipped because the target has a run of its own with this key that is no worse.
    """

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return lines for a person."""
        said = f"{len(self.copied)} copied, {len(self.updated)} brought up to date, {len(self.there)} already there"
        skipped = [f"skipped: {name} is running; migrate again when it has ended" for name in self.running]
        return [said, *skipped, *(f"skipped: the target has its own {name}" for name in self.kept)]


def target_store(where: str, workspace: Workspace) -> Store:
    """Return a store to copy into: by its address, a work folder, or a SQLite file (``.db``). It may be new."""
    if "://" not in where:
        path = Path(where).expanduser()
        path = path if path.suffix == ".db" else path / "mlflow.db"
        where = f"sqlite:///{path.resolve()}"
    return Store(replace(workspace, store=where))


def migrate(source: str, target: str, say: Callable[[str], None], workspace: Workspace) -> Copied:
    """Copy sweeps, trainings and evaluations with all that MLflow knows of them, and their artifacts.

    A run is known by its kind and key: one that the target has is not copied twice; one whose copying was interrupted,
    or that has gone on in the source since, is brought up to date. Start and end, time stamps and steps stay.

    Args:
        source: A store's address, a work folder, or a SQLite file.
        target: Likewise; created if need be.
        say: Called with the name of each run that is copied.
        workspace: Whose lock keeps two copies from running at once.

    Raises:
        UserError: One of them cannot be used, both are the same, or another process is copying.
    """
    theirs, ours = existing_store(source, workspace), target_store(target, workspace)
    if theirs.uri.rstrip("/") == ours.uri.rstrip("/"):
        raise UserError(f"{source} and {target} are the same store; give two.")
    with locked(workspace.lock_folder / "migrate.lock") as mine:
        if not mine:
            raise UserError("another `eman store migrate` of this work folder is running; wait for it.")
        return _Migration(theirs, ours, say).run()


class _Migration:
    def __init__(self, source: Store, target: Store, say: Callable[[str], None]) -> None:
        self.source, self.target, self.say = source, target, say
        self.done = Copied()
        self.twins: dict[str, str] = {}  # run of the source -> run of the target

    def run(self) -> Copied:
        of_source = {kind: self.source.by_key(kind) for kind in (SWEEP, TRAINING, EVALUATION)}
        for kind, records in of_source.items():
            known = self.target.by_key(kind)
            for key, record in sorted(records.items(), key=lambda item: item[1].start):
                self._copy(record, known.get(key))
        for kind, records in of_source.items():
            known = self.target.by_key(kind)
            for key in records.keys() & known.keys():
                self._connect(records[key], known[key])
        return self.done

    def _copy(self, record: Record, known: Record | None) -> None:
        """Copy one run, all but its links to other runs."""
        if record.status == "running":
            self.done.running.append(record.name)
            return
        if known is not None:
            ours = known.tags.get(_SOURCE) == record.run_id
            same = ours and (known.status, _end(known)) == (record.status, _end(record))
            result = known.status == "done" and not (ours and record.status == "done" and record.end > known.end)
            if same or result or known.status == "running" or (not ours and record.status != "done"):
                self.twins[record.run_id] = known.run_id
                (self.done.there if same or result else self.done.kept).append(record.name)
                return
            if not ours:  # it gave no number, and this one did
                self._ask(partial(self.target.client.delete_run, known.run_id))
                known = None
        self.say(record.name)
        run = self.source.patiently(lambda: self.source.client.get_run(record.run_id))
        self.twins[record.run_id] = run_id = self._empty_copy(run) if known is None else known.run_id
        self._fill(run, record, run_id)
        (self.done.copied if known is None else self.done.updated).append(record.name)

    def _ask(self, call: Callable[[], T]) -> T:
        return self.target.patiently(call)

    def _empty_copy(self, run: "Run") -> str:
        """Create a run of the same name. It is not RUNNING, so that nobody waits for it if this process dies."""
        client, experiment = self.target.client, self.target.experiment_id
        tags = {name: run.data.tags[name] for name in ("eman.kind", "eman.key")} | {_SOURCE: run.info.run_id}
        made = self._ask(
            lambda: client.create_run(experiment, start_time=run.info.start_time, tags=tags, run_name=run.info.run_name)
        )
        run_id = str(made.info.run_id)
        self._ask(lambda: client.update_run(run_id, status="SCHEDULED"))
        return run_id

    def _fill(self, run: "Run", record: Record, run_id: str) -> None:
        """Write what the target's run lacks; its status last, which says that nothing is missing."""
        from mlflow.entities import Param, RunTag

        client = self.target.client
        there = self._ask(lambda: client.get_run(run_id))
        params = [Param(name, value) for name, value in run.data.params.items() if name not in there.data.params]
        tags = [RunTag(name, value) for name, value in run.data.tags.items() if name not in (_PARENT, _SOURCE)]
        written = {_identity(metric) for metric in _history(self.target, there)}
        metrics = [metric for metric in _history(self.source, run) if _identity(metric) not in written]
        for name, entries in (("params", params), ("metrics", metrics), ("tags", tags)):
            most = _MOST_AT_ONCE[name]
            for start in range(0, len(entries), most):
                some = {name: entries[start : start + most]}
                self._ask(lambda some=some: client.log_batch(run_id, **some))  # type: ignore[misc]
        with _artifacts(self.source, run) as folder:
            if folder is not None:
                self._ask(lambda: client.log_artifacts(run_id, str(folder)))
        status = "KILLED" if record.status == "missing" else run.info.status
        self._ask(lambda: client.set_terminated(run_id, status, round(_end(record) * 1000)))

    def _connect(self, record: Record, known: Record) -> None:
        """Write the parent, and the runs that a description links to, by the identifiers that the target has."""
        if known.tags.get(_SOURCE) != record.run_id:
            return
        tags = {}
        parent = self.twins.get(record.tags.get(_PARENT, ""))
        if parent is not None:
            tags[_PARENT] = parent
        if _NOTE in record.tags:
            tags[_NOTE] = self._relinked(record.tags[_NOTE])
        for name, value in tags.items():
            if known.tags.get(name) != value:
                self._ask(partial(self.target.client.set_tag, known.run_id, name, value))

    def _relinked(self, text: str) -> str:
        """Return a description whose links lead to the target's runs and experiment."""
        text = re.sub(r"[0-9a-f]{32}", lambda match: self.twins.get(match[0], match[0]), text)
        return text.replace(f"/experiments/{self.source.experiment_id}/", f"/experiments/{self.target.experiment_id}/")


def _end(record: Record) -> float:
    """Return when a run ended, in seconds; one that was killed ended with its last heartbeat."""
    return record.end or record.heartbeat


def _identity(metric: "Metric") -> tuple[str, int, int, str]:
    return metric.key, metric.step, metric.timestamp, repr(metric.value)  # NaN does not equal itself


def _history(store: Store, run: "Run") -> list["Metric"]:
    """Return every value that was ever logged, in the order of steps."""
    logged: list[Metric] = []
    for name in sorted(run.data.metrics):
        logged += store.patiently(partial(store.client.get_metric_history, run.info.run_id, name))
    return sorted(logged, key=lambda metric: (metric.step, metric.timestamp, metric.key))


@contextmanager
def _artifacts(store: Store, run: "Run") -> Iterator[Path | None]:
    """Yield a folder on this machine with a run's artifacts; ``None`` if it has none."""
    address = urlparse(run.info.artifact_uri)
    if address.scheme in ("", "file"):
        folder = Path(unquote(address.path))
        if store.local and not folder.is_dir():  # the work folder has been moved: they lie beside the database
            folder = store.artifacts / run.info.run_id / "artifacts"
        yield folder if folder.is_dir() else None
        return
    if not store.patiently(lambda: store.client.list_artifacts(run.info.run_id)):
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        store.patiently(lambda: store.client.download_artifacts(run.info.run_id, "", temporary))
        yield Path(temporary)
