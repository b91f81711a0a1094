"""Claims: at most one process carries out a run at a time, across machines and crashes.

A claim is the run's parameter ``claim/N``; its value is the owner. MLflow parameters are immutable, so the database
refuses one of two concurrent claims. A run can be claimed when its last owner stopped, failed or is lost. An owner on
this machine is lost if the caller could lock the run's local lock file; one on another machine, if it has sent no
heartbeat for :data:`~eman.platform.store.records.SILENT_SECONDS`. No shared disk is needed.
"""

import logging
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
    """A run to claim: kind, key, display name, parameters (written once), tags and the parent's run id, if any."""

    kind: str
    key: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    parent: str | None


def claim(store: Connection, entry: Entry, previous_owner: str = "") -> RunLog:
    """Claim a run, creating it if needed, and mark it RUNNING. A sweep may have several owners.

    A finished run can be claimed only with the name of its ``previous_owner``: it is trained again because its files
    are gone.

    Raises:
        BusyError: Another process is running or has finished it.
    """
    while True:
        known = oldest(store, entry.kind, entry.key)
        run_id = _create(store, entry) if known is None else known.run_id
        if known is not None:
            _check_free(known, entry, previous_owner, store.workspace.machine)
        try:
            return _start(store, run_id, entry, known, previous_owner)
        except _Deleted:
            log.info("%s was created twice at the same time; retrying", entry.name)


class _Deleted(Exception):
    """The run was deleted by its creator, which found an older one."""


def oldest(store: Connection, kind: str, key: str) -> Record | None:
    """Return the oldest run with this key; duplicates created at the same time are deleted."""
    return min(store.records(kind, key), key=lambda record: (record.start, record.run_id), default=None)


def _create(store: Connection, entry: Entry) -> str:
    tags = {"eman.kind": entry.kind, "eman.key": entry.key, **heartbeat()}
    if entry.parent is not None:
        tags["mlflow.parentRunId"] = entry.parent
    create = partial(store.client.create_run, store.experiment_id, tags=tags, run_name=entry.name)
    run_id = str(store.with_retries(create).info.run_id)
    first = oldest(store, entry.kind, entry.key)
    if first is None or first.run_id == run_id:
        return run_id
    store.client.delete_run(run_id)
    if entry.kind != SWEEP:
        raise BusyError(f"another process has begun {entry.name}")
    return first.run_id


def _check_free(known: Record, entry: Entry, previous_owner: str, machine: str) -> None:
    if entry.kind == SWEEP:
        return
    if known.status == "done" and (not previous_owner or known.owner != previous_owner):
        raise BusyError(f"{entry.name} is done already")
    # On this machine the caller holds the run's lock, so no other process is running it.
    if known.status == "running" and known.claims and known.host != machine:
        raise BusyError(f"{entry.name} is running on {known.host}")


def _start(store: Connection, run_id: str, entry: Entry, known: Record | None, previous_owner: str) -> RunLog:
    """Claim a run that looked free, and write its parameters and tags."""
    number = 1 + (len(known.claims) if known is not None else 0)
    owner = f"{store.workspace.machine}/{new_id()}"
    writer = RunLog(store, run_id)
    try:
        if entry.kind != SWEEP:
            _write_claim(store, run_id, f"{CLAIM}{number}", owner, entry.name)
        if known is not None:
            store.with_retries(partial(store.client.update_run, run_id, status="RUNNING"))
        ended = {"eman.reason": "", "eman.stopped": ""}
        tags = {**ended, **heartbeat(0.0 if previous_owner else None), **provenance(), **entry.tags}
        if entry.parent is not None:
            tags["mlflow.parentRunId"] = entry.parent
        writer.write(params=entry.params if known is None or not known.params else None, tags=tags)
    except BusyError:
        raise
    except Exception as error:
        if store.with_retries(lambda: store.client.get_run(run_id)).info.lifecycle_stage != "deleted":
            raise
        raise _Deleted(run_id) from error
    if known is not None:
        writer.last_step = max((point.step for point in store.history(run_id, "train/loss")), default=0)
    return writer


def _write_claim(store: Connection, run_id: str, name: str, owner: str, title: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        store.with_retries(partial(store.client.log_param, run_id, name, owner))
    except MlflowException as error:
        now = store.with_retries(lambda: store.client.get_run(run_id))
        if now.info.lifecycle_stage != "deleted" and now.data.params.get(name) not in (None, owner):
            raise BusyError(f"another process has claimed {title}") from error
        raise
