"""Runs as the store records them. This module has no heavy imports."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: Kinds of runs.
TRAINING, EVALUATION, SWEEP = "training", "evaluation", "sweep"

Status = Literal["done", "failed", "running", "stopped", "missing", "published"]

#: A RUNNING run without a heartbeat for this many seconds is lost.
SILENT_SECONDS = 90.0

#: Prefix of the parameters that record a run's owners (``claim/1``, ...). See :mod:`eman.platform.store.claims`.
CLAIM = "claim/"

#: Tag of trainings and evaluations with the MLflow run of the sweep that ran them last.
SWEEP_ID = "eman.sweep"


@dataclass(frozen=True)
class Search:
    """Conditions of a search for runs; empty fields match all.

    Attributes:
        kind: See :data:`TRAINING`, :data:`EVALUATION`, :data:`SWEEP`.
        keys: Any of these keys; ``None`` for all.
        prefix: Beginning of the key.
        status: MLflow's status.
        parent: MLflow's id of the parent.
        sweep: See :data:`SWEEP_ID`.
        limit: Return at most this many, the newest; 0 for all.
    """

    kind: str = ""
    keys: tuple[str, ...] | None = None
    prefix: str = ""
    status: str = ""
    parent: str = ""
    sweep: str = ""
    limit: int = 0


def new_id() -> str:
    """Return a random identifier."""
    return uuid.uuid4().hex[:12]


@dataclass(frozen=True)
class Point:
    """One logged value of a metric; ``time`` is seconds since the epoch."""

    step: int
    value: float
    time: float


@dataclass(frozen=True)
class DatasetUse:
    """A part of a data set that a run used, as MLflow lists it among the run's inputs.

    Attributes:
        name: Data set and part.
        digest: Hash of the images.
        context: ``training``, ``held-out``, ``evaluation`` or ``test``.
        source: Where the images are, by path, URI or name.
        profile: Number of images, and what else describes the part, for example its label set.
    """

    name: str
    digest: str
    context: str
    source: str
    profile: Mapping[str, int | str]


@dataclass(frozen=True)
class Record:
    """A run in the store.

    Attributes:
        run_id: MLflow's identifier.
        key: Key of its specification.
        status: ``done``, ``failed``, ``running``, ``stopped`` by a search's scheduler, or ``missing`` for a run that
            was interrupted or lost.
        reason: Why it failed or was stopped.
        metrics: Latest values.
        claims: Owners (``HOST/ID``), oldest first.
        failures: Failures in the launch ``launch``.
        launch: The launch that ran it last.
        start, end, heartbeat: Seconds since the epoch; 0 where unknown.
        share: Completed share of the run, 0 to 1.
        open: Whether MLflow shows it as RUNNING.
    """

    run_id: str
    kind: str
    key: str
    name: str
    status: Status
    reason: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    claims: tuple[str, ...]
    failures: int
    launch: str
    start: float
    end: float
    heartbeat: float
    share: float
    open: bool

    @property
    def owner(self) -> str:
        """The last owner."""
        return self.claims[-1] if self.claims else ""

    @property
    def host(self) -> str:
        """The last owner's machine."""
        return self.owner.partition("/")[0]

    @property
    def final(self) -> bool:
        """Whether it failed in a way that a repetition would too."""
        return self.status == "failed" and self.tags.get("eman.final") == "true"

    @property
    def lost(self) -> bool:
        """Whether MLflow shows it as RUNNING although its process is gone."""
        return self.open and self.status == "missing"


def make_record(
    run_id: str,
    name: str,
    state: str,
    start_ms: int | None,
    end_ms: int | None,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> Record:
    """Return the record of an MLflow run; ``state`` is MLflow's status, and times are in ms since the epoch."""
    heartbeat, end = number(tags.get("eman.heartbeat")), (end_ms or 0) / 1000
    claims = sorted((name for name in params if name.startswith(CLAIM)), key=lambda name: number(name[len(CLAIM) :]))
    return Record(
        run_id,
        tags.get("eman.kind", ""),
        tags["eman.key"],
        name,
        _status(state, heartbeat, end, stopped=bool(tags.get("eman.stopped"))),
        tags.get("eman.reason", ""),
        metrics,
        {name: value for name, value in params.items() if not name.startswith(CLAIM)},
        tags,
        tuple(params[name] for name in claims),
        int(number(tags.get("eman.failures"))),
        tags.get("eman.launch", ""),
        (start_ms or 0) / 1000,
        end,
        heartbeat,
        number(tags.get("eman.share")),
        state == "RUNNING",
    )


def _status(state: str, heartbeat: float, end: float, *, stopped: bool) -> Status:
    """Return the state of a run. For an unfinished run the heartbeat overrides MLflow's status."""
    if state == "FINISHED":
        return "done"
    if state == "FAILED":
        return "failed"
    if state == "KILLED" and stopped:
        return "stopped"
    alive = time.time() - heartbeat <= SILENT_SECONDS
    # A run that was marked lost but still sends heartbeats is running.
    return "running" if alive and (state == "RUNNING" or (state == "KILLED" and heartbeat > end + 1)) else "missing"


def number(text: str | None) -> float:
    """Return the number in a tag, or 0 if it has none, because another program may have edited it."""
    return float(text) if text and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text) else 0.0
