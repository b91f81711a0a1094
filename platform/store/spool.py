"""Write entries to a run of the store; keep them on disk, one file per run, in order, while the store is down.

With a work folder in object storage, the file is local and a copy is uploaded, so that another machine can deliver
the entries if this one is lost.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eman.platform.errors import UserError, first_line
from eman.platform.output import atomic_path, locked
from eman.platform.storage import MissingError, Place, StorageError
from eman.platform.store.client import is_away
from eman.platform.store.connection import Connection

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

#: Metrics, parameters, tags, data sets and a status to write; with time stamps, so that an entry can be sent twice.
Entry = Mapping[str, Any]

log = logging.getLogger("eman")


def pending(store: Connection) -> list["Spool"]:
    """Return the spools that have entries, on this machine or in storage."""
    if store.workspace.remote:
        _adopt(store)
    paths = sorted(store.workspace.spool_folder.glob("*.jsonl"))
    return [Spool(store, path.stem) for path in paths if re.fullmatch(r"\w+", path.stem)]


def _adopt(store: Connection) -> None:
    """Move entries of other machines from storage to this machine's files, to deliver them."""
    folder = replace(store.workspace.storage, patience=0.0) / "spool"
    try:
        for name in folder.names():
            run_id, _, machine = name.removesuffix(".jsonl").partition(".")
            if machine != store.workspace.machine:
                Spool(store, run_id).insert((folder / name).read())
                (folder / name).remove()
    except MissingError:  # another machine has taken it
        return
    except StorageError as error:
        log.warning("entries of other machines, if any, are delivered later: %s", error)


class Spool:
    """Pending entries of one run."""

    def __init__(self, store: Connection, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.path = store.workspace.spool_folder / f"{run_id}.jsonl"
        self._lock = self.path.with_suffix(".lock")

    def append(self, entry: Entry) -> None:
        """Append an entry."""
        with locked(self._lock, wait=True):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            if self.store.workspace.remote:
                with _best_effort():
                    self._uploaded().write(self.path.read_bytes())

    def insert(self, lines: bytes) -> None:
        """Insert earlier entries before the existing ones."""
        with locked(self._lock, wait=True):
            later = self.path.read_bytes() if self.path.exists() else b""
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(lines + later)

    def _uploaded(self) -> Place:
        """Return the place of this machine's uploaded copy."""
        workspace = self.store.workspace
        return replace(workspace.storage, patience=0.0) / "spool" / f"{self.run_id}.{workspace.machine}.jsonl"

    def deliver(self, *, wait: bool = False) -> bool:
        """Send all entries in order, then delete them; set them aside if the store rejects one.

        If the store is down, raise and keep all. If another process is delivering, return, or ``wait`` for it.

        Returns:
            Whether there were entries and the store accepted them.
        """
        if not self.path.exists():
            return False
        with locked(self._lock, wait=wait) as acquired:
            if not acquired or not self.path.exists():
                return False
            try:
                for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                    entry: Any = None
                    with contextlib.suppress(json.JSONDecodeError):  # a line truncated by a kill
                        entry = json.loads(line)
                    if isinstance(entry, dict) and entry.keys() >= {"metrics", "params", "tags", "inputs", "status"}:
                        send(self.store, self.run_id, entry)
            except Exception as error:
                if isinstance(error, UserError) or is_away(error):
                    raise
                log.warning("the store rejects %s (%s); set aside", self.path, first_line(error))
                self.path.rename(self.path.with_suffix(".refused"))
                return False
            self.path.unlink()
            if self.store.workspace.remote:
                with _best_effort():
                    self._uploaded().remove()
        return True


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    """Ignore storage that does not answer: the file on this machine has everything."""
    try:
        yield
    except StorageError as error:
        log.warning("the copy of pending entries in storage is out of date: %s", error)


def send(store: Connection, run_id: str, entry: Entry) -> None:
    """Write an entry to the store; raise if the store is down or rejects it."""
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(name, value, stamp, step) for name, value, stamp, step in entry["metrics"]]
    params = [Param(name, value) for name, value in entry["params"].items()]
    tags = [RunTag(name, value) for name, value in entry["tags"].items()]
    if metrics or params or tags:
        store.client.log_batch(run_id, metrics, params, tags)
    if entry["inputs"]:
        store.client.log_inputs(run_id, [_input(used) for used in entry["inputs"]])
    if entry["status"] is not None:
        store.client.set_terminated(run_id, entry["status"])


def _input(used: Mapping[str, Any]) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source, profile = json.dumps({"uri": used["source"]}), json.dumps(used["profile"])
    dataset = Dataset(used["name"], used["digest"], "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", used["context"])])
