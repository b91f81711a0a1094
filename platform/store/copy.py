"""Copy one store to another. Repeating a copy adds only what is missing."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eman.platform.errors import UserError
from eman.platform.output import locked
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING, Record
from eman.platform.store.store import Store, store_at
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

T = TypeVar("T")

#: The last tag of a complete copy is the source's run and state.
_PARENT, _NOTE, _SOURCE = "mlflow.parentRunId", "mlflow.note.content", "eman.copied_from"

#: Largest batches that MLflow's servers accept.
_MAX_BATCH = {"params": 100, "metrics": 1000, "tags": 100}


@dataclass
class Copied:
    """Names of the runs that :func:`migrate` handled.

    Attributes:
        copied: New in the target.
        updated: Copied earlier, and again now.
        unchanged: Copied earlier and up to date, or done in the target too.
        running: Skipped because they are running; migrate again when they have ended.
        kept: Skipped because the target has its own result for this key.
    """

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return a summary as lines of text."""
        counts = f"{len(self.copied)} copied, {len(self.updated)} updated, {len(self.unchanged)} unchanged"
        skipped = [f"skipped: {name} is running; migrate again when it has ended" for name in self.running]
        return [counts, *skipped, *(f"skipped: the target has its own {name}" for name in self.kept)]


def migrate(source: str, target: str, say: Callable[[str], None], workspace: Workspace) -> Copied:
    """Copy sweeps, trainings and evaluations with their parameters, metrics, tags and artifacts.

    Runs are identified by kind and key, so none is copied twice. A run whose copy was interrupted, or that has since
    continued in the source, is copied again. Times and steps are preserved.

    Args:
        source: A store's address, a work folder, or a SQLite file.
        target: Likewise; created if needed.
        say: Called with the name of each copied run.
        workspace: Workspace whose lock prevents two copies at the same time.
    """
    from_store, to_store = store_at(source, workspace), store_at(target, workspace, new=True)
    if from_store.uri.rstrip("/") == to_store.uri.rstrip("/"):
        raise UserError(f"{source} and {target} are the same store; give two.")
    with locked(workspace.local / "locks" / "migrate.lock") as locked_here:
        if not locked_here:
            raise UserError("another `eman store migrate` of this work folder is running; wait for it.")
        return _Migration(from_store, to_store, say).run()


class _Migration:
    def __init__(self, source: Store, target: Store, say: Callable[[str], None]) -> None:
        self.source, self.target, self.say = source, target, say
        self.done = Copied()
        self.target_ids: dict[str, str] = {}  # run of the source -> run of the target

    def run(self) -> Copied:
        by_kind = {kind: self.source.by_key(kind) for kind in (SWEEP, TRAINING, EVALUATION)}
        for kind, records in by_kind.items():
            known = self.target.by_key(kind)
            for key, record in sorted(records.items(), key=lambda item: item[1].start):
                self._copy(record, known.get(key))
        for kind, records in by_kind.items():
            known = self.target.by_key(kind)
            for key in records.keys() & known.keys():
                self._connect(records[key], known[key])
        return self.done

    def _copy(self, record: Record, known: Record | None) -> None:
        """Copy one run, except its links to other runs."""
        if record.status == "running":
            self.done.running.append(record.name)
            return
        state = f"{record.run_id} {record.status} {_end(record)}"
        if known is not None:
            self.target_ids[record.run_id] = known.run_id
            ours = known.tags.get(_SOURCE, "").startswith(record.run_id)
            if known.tags.get(_SOURCE) == state or (known.status == "done" and not (ours and record.status == "done")):
                self.done.unchanged.append(record.name)
                return
            if known.status == "running" or (not ours and record.status != "done"):
                self.done.kept.append(record.name)
                return
            self._with_retries(partial(self.target.client.delete_run, known.run_id))
        self.say(record.name)
        run = self.source.with_retries(lambda: self.source.client.get_run(record.run_id))
        self.target_ids[record.run_id] = self._new_copy(run, record, state)
        (self.done.copied if known is None else self.done.updated).append(record.name)

    def _with_retries(self, call: Callable[[], T]) -> T:
        return self.target.with_retries(call)

    def _new_copy(self, run: "Run", record: Record, state: str) -> str:
        """Create a run of the same name and content. It is never RUNNING, so that no launch waits for it."""
        from mlflow.entities import Param, RunTag

        client, experiment, info = self.target.client, self.target.experiment_id, run.info
        tags = {name: run.data.tags[name] for name in ("eman.kind", "eman.key")} | {_SOURCE: info.run_id}
        made = self._with_retries(
            lambda: client.create_run(experiment, start_time=info.start_time, tags=tags, run_name=info.run_name)
        )
        run_id = str(made.info.run_id)
        self._with_retries(lambda: client.update_run(run_id, status="SCHEDULED"))
        content: dict[str, Sequence[object]] = {
            "params": [Param(name, value) for name, value in run.data.params.items()],
            "metrics": _history(self.source, run),
            "tags": [RunTag(name, value) for name, value in run.data.tags.items() if name not in (_PARENT, _SOURCE)],
        }
        for name, entries in content.items():
            size = _MAX_BATCH[name]
            for start in range(0, len(entries), size):
                batch = {name: entries[start : start + size]}
                self._with_retries(lambda batch=batch: client.log_batch(run_id, **batch))  # type: ignore[misc]
        with _artifacts(self.source, run) as folder:
            if folder is not None:
                self._with_retries(lambda: client.log_artifacts(run_id, str(folder)))
        status = "KILLED" if record.status == "missing" else info.status
        self._with_retries(lambda: client.set_terminated(run_id, status, round(_end(record) * 1000)))
        self._with_retries(lambda: client.set_tag(run_id, _SOURCE, state))
        return run_id

    def _connect(self, record: Record, known: Record) -> None:
        """Write the parent and the description's links with the target's run ids."""
        if not known.tags.get(_SOURCE, "").startswith(record.run_id):
            return
        tags = {}
        parent = self.target_ids.get(record.tags.get(_PARENT, ""))
        if parent is not None:
            tags[_PARENT] = parent
        if _NOTE in record.tags:
            tags[_NOTE] = self._relinked(record.tags[_NOTE])
        for name, value in tags.items():
            if known.tags.get(name) != value:
                self._with_retries(partial(self.target.client.set_tag, known.run_id, name, value))

    def _relinked(self, text: str) -> str:
        """Return a description with links to the target's runs and experiment."""
        text = re.sub(r"[0-9a-f]{32}", lambda match: self.target_ids.get(match[0], match[0]), text)
        return text.replace(f"/experiments/{self.source.experiment_id}/", f"/experiments/{self.target.experiment_id}/")


def _end(record: Record) -> float:
    """Return when a run ended, in seconds; for a killed run, the time of its last heartbeat."""
    return record.end or record.heartbeat


def _history(store: Store, run: "Run") -> list["Metric"]:
    """Return all logged values of all metrics, by step."""
    logged: list[Metric] = []
    for name in sorted(run.data.metrics):
        logged += store.with_retries(partial(store.client.get_metric_history, run.info.run_id, name))
    return sorted(logged, key=lambda metric: (metric.step, metric.timestamp, metric.key))


@contextmanager
def _artifacts(store: Store, run: "Run") -> Iterator[Path | None]:
    """Yield a local folder with a run's artifacts, or ``None`` if it has none."""
    if store.local:  # wherever the work folder is now
        folder = store.artifacts / run.info.run_id / "artifacts"
        yield folder if folder.is_dir() else None
        return
    if not store.with_retries(lambda: store.client.list_artifacts(run.info.run_id)):
        yield None
        return
    with tempfile.TemporaryDirectory() as temporary:
        store.with_retries(lambda: store.client.download_artifacts(run.info.run_id, "", temporary))
        yield Path(temporary)
