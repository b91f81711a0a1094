"""Write entries to a run of the store; keep them on disk, one file per run, in order, while the store is down."""

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from eman.platform.errors import UserError, first_line
from eman.platform.output import locked
from eman.platform.store.client import is_away
from eman.platform.store.connection import Connection

#: Metrics, parameters, tags and a status to write; with time stamps, so that an entry can be sent twice.
Entry = Mapping[str, Any]

log = logging.getLogger("eman")


def pending(store: Connection) -> list["Spool"]:
    """Return the spools that have entries."""
    paths = sorted(store.workspace.spool_folder.glob("*.jsonl"))
    return [Spool(store, path.stem) for path in paths if re.fullmatch(r"\w+", path.stem)]


class Spool:
    """Pending entries of one run."""

    def __init__(self, store: Connection, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.path = store.workspace.spool_folder / f"{run_id}.jsonl"
        self._lock = self.path.with_suffix(".lock")

    def append(self, entry: Entry) -> None:
        """Append an entry."""
        with locked(self._lock, wait=True), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

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
                    if isinstance(entry, dict) and entry.keys() >= {"metrics", "params", "tags", "status"}:
                        send(self.store, self.run_id, entry)
            except Exception as error:
                if isinstance(error, UserError) or is_away(error):
                    raise
                log.warning("the store rejects %s (%s); set aside", self.path, first_line(error))
                self.path.rename(self.path.with_suffix(".refused"))
                return False
            self.path.unlink()
        return True


def send(store: Connection, run_id: str, entry: Entry) -> None:
    """Write an entry to the store; raise if the store is down or rejects it."""
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(name, value, stamp, step) for name, value, stamp, step in entry["metrics"]]
    params = [Param(name, value) for name, value in entry["params"].items()]
    tags = [RunTag(name, value) for name, value in entry["tags"].items()]
    if metrics or params or tags:
        store.client.log_batch(run_id, metrics, params, tags)
    if entry["status"] is not None:
        store.client.set_terminated(run_id, entry["status"])
