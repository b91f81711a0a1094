"""Who is running a run: at most one process at a time, on any machine, also when processes die.

A claim is the parameter ``claim/N`` of the run, whose value says who claims. MLflow never lets a parameter change, so
of two processes that claim at once the database refuses one. A run is free to claim when its last claimant was stopped,
failed, or is lost: it died on this machine (whoever asks holds the run folder's lock, which the kernel frees when a
process dies), or it has been silent for :data:`~eman.platform.store.records.SILENT_SECONDS` on another.
"""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from eman.platform.errors import BusyError
from eman.platform.store.connection import Connection
from eman.platform.store.provenance import provenance
from eman.platform.store.records import CLAIM, SWEEP, Record, new_id
from eman.platform.store.writer import RunLog, heartbeat

log = logging.getLogger("eman")


@dataclass(frozen=True)
class Entry:
    """A run to claim: its kind, key, name for people, parameters (written once), tags, and parent's identifier."""

    kind: str
    key: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    parent: str | None


def claim(store: Connection, entry: Entry, again: str = "") -> RunLog:
    """Claim a run, making it where there is none, and mark it RUNNING. A sweep may have several claimants.

    Args:
        store: The store.
        entry: The run.
        again: Claim the run although it is done, if this owner has done it: its files are gone.

    Raises:
        BusyError: Another process is running it, or has done it.
    """
    while True:
        known = oldest(store, entry.kind, entry.key)
        run_id = _created(store, entry) if known is None else known.run_id
        if known is not None:
            _check_free(known, entry, again)
        try:
            return _taken(store, run_id, entry, known, again)
        except _Deleted:
            log.info("%s was made twice at once; looking again", entry.name)


class _Deleted(Exception):
    """The run was deleted: whoever had made it found an older one."""


def oldest(store: Connection, kind: str, key: str) -> Record | None:
    """Return the run with this key; of several that were made at once, the one that stands."""
    return min(store.records(kind, key), key=lambda record: (record.start, record.run_id), default=None)


def is_taken(store: Connection, kind: str, key: str) -> bool:
    """Return whether a run is done, or another host is running it."""
    known = oldest(store, kind, key)
    return known is not None and (
        known.status == "done" or (known.status == "running" and known.host != socket.gethostname())
    )


def _created(store: Connection, entry: Entry) -> str:
    tags = {"eman.kind": entry.kind, "eman.key": entry.key, **heartbeat()}
    if entry.parent is not None:
        tags["mlflow.parentRunId"] = entry.parent
    create = partial(store.client.create_run, store.experiment_id, tags=tags, run_name=entry.name)
    run_id = str(store.patiently(create).info.run_id)
    first = oldest(store, entry.kind, entry.key)
    if first is None or first.run_id == run_id:
        return run_id
    store.client.delete_run(run_id)
    if entry.kind != SWEEP:
        raise BusyError(f"another process has begun {entry.name}")
    return first.run_id


def _check_free(known: Record, entry: Entry, again: str) -> None:
    if entry.kind == SWEEP:
        return
    if known.status == "done" and (not again or known.owner != again):
        raise BusyError(f"{entry.name} is done already")
    # On this host the lock of the run's folder has told already that nobody is running it.
    if known.status == "running" and known.claims and known.host != socket.gethostname():
        raise BusyError(f"{entry.name} is running on {known.host}")


def _taken(store: Connection, run_id: str, entry: Entry, known: Record | None, again: str) -> RunLog:
    """Claim a run that looked free, and describe it."""
    number = 1 + (len(known.claims) if known is not None else 0)
    owner = f"{socket.gethostname()}/{new_id()}"
    writer = RunLog(store, run_id)
    try:
        if entry.kind != SWEEP:
            _write_claim(store, run_id, f"{CLAIM}{number}", owner, entry.name)
        if known is not None:
            store.patiently(partial(store.client.update_run, run_id, status="RUNNING"))
        tags = {"eman.reason": "", **heartbeat(0.0 if again else None), **provenance(), **entry.tags}
        if entry.parent is not None:
            tags["mlflow.parentRunId"] = entry.parent
        writer.write(params=entry.params if known is None or not known.params else None, tags=tags)
    except BusyError:
        raise
    except Exception as error:
        if store.patiently(lambda: store.client.get_run(run_id)).info.lifecycle_stage != "deleted":
            raise
        raise _Deleted(run_id) from error
    if known is not None:
        writer.last_step = max((point.step for point in store.history(run_id, "train/loss")), default=0)
    return writer


def _write_claim(store: Connection, run_id: str, name: str, owner: str, title: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.patiently(partial(store.client.log_param, run_id, name, owner))
    except MlflowException as error:
        now = store.patiently(lambda: store.client.get_run(run_id))
        if now.info.lifecycle_stage != "deleted" and now.data.params.get(name) not in (None, owner):
            raise BusyError(f"another process has taken up {title}") from error
        raise
