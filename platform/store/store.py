"""MLflow as the ledger: every sweep, training and evaluation is a run with a key, searched before it is made.

By default the store is a SQLite file in the home folder and needs no server; ``MLFLOW_TRACKING_URI`` names another.
Only worker 0 of a training writes, in batches.
"""

import contextlib
import logging
import os
import platform as machine  # noqa: TID251
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from eman.platform.errors import BusyError, UserError, first_line
from eman.platform.lock import locked
from eman.platform.store import spool
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Raised by one whenever the layout of the store changes.
STORE_VERSION = 1
EXPERIMENT = "eman"

#: A run that says RUNNING and has been silent for so many seconds has been killed.
SILENT_SECONDS = 90.0
BEAT_SECONDS = 20.0  # between two signs of life
_AWAY_SECONDS = 5.0  # between two attempts to reach a store that is away
_SETTLE_SECONDS = 0.5  # in which two processes that take up one run at the same moment see each other

T = TypeVar("T")
log = logging.getLogger("eman")

TRAINING, EVALUATION, SWEEP = "training", "evaluation", "sweep"

for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("DO_NOT_TRACK", "true"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
    ("GIT_PYTHON_REFRESH", "quiet"),
    ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
):
    os.environ.setdefault(_name, _value)


Status = Literal["done", "failed", "running", "missing", "published"]


@dataclass(frozen=True)
class Record:
    """What the store knows of one run.

    Attributes:
        status: ``done``, ``failed``, ``running``, or ``missing`` for a run that was interrupted.
        reason: Why it failed.
        metrics: Latest values.
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
    failures: int
    start: float
    end: float


def existing_store(where: str) -> "Store":
    """A store that must be there already: its URI, a work folder, or a SQLite file.

    Raises:
        UserError: There is none.
    """
    if "://" not in where:
        path = Path(where).expanduser()
        path = path / "mlflow.db" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{where} holds no MLflow store; give a work folder, a SQLite file or a server's address.")
        where = f"sqlite:///{path.resolve()}"
    return Store(where)


class _GoneError(Exception):
    """A run was deleted that was there a moment ago."""


class Store:
    """An MLflow store, with the experiment in which everything is kept.

    Args:
        where: The workspace whose store it is, or an address.
        patient: Wait for it, as :meth:`patiently` does, instead of giving up at once.

    Raises:
        UserError: It cannot be reached, or a newer version wrote it.
    """

    def __init__(self, where: Workspace | str, *, patient: bool = False) -> None:
        self.workspace = Workspace(store=where) if isinstance(where, str) else where
        self.uri = self.workspace.store
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            with self._alone():
                self.client: MlflowClient = MlflowClient(tracking_uri=self.uri)
                self.experiment_id = self.patiently(self._experiment) if patient else self._experiment()
        except MlflowException as error:
            raise UserError(self._trouble(error)) from error
        except Exception as error:  # drivers of databases raise kinds of their own
            raise UserError(self._trouble(error)) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from making the same file's tables at the same moment."""
        if not self.local:
            yield
            return
        path = Path(self.uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock"), wait=True):
            yield

    def _trouble(self, error: Exception) -> str:
        if isinstance(error, UserError):
            return str(error)
        # HTTP errors quote the whole address; whoever reads a log must not find a password in it.
        text = re.sub(r"://[^/@\s]*@", "://...@", first_line(error))
        if "out-of-date database schema" in str(error) or "Can't locate revision" in str(error):
            return (
                f"the MLflow store {self._shown()} was written by another MLflow version ({text}); install that "
                f"version, or choose another EMAN_HOME."
            )
        return (
            f"the MLflow store {self._shown()} cannot be reached ({text}); start it, or unset MLFLOW_TRACKING_URI "
            f"to use the embedded one."
        )

    def _shown(self) -> str:
        """The address without a password."""
        head, at, tail = self.uri.rpartition("@")
        return f"{head.split('://')[0]}://...@{tail}" if at else self.uri

    def _experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = self.artifacts.resolve().as_uri() if self.local else None
            # Otherwise the UI opens on traces of language models.
            tags = {"eman.store_version": str(STORE_VERSION), "mlflow.experimentKind": "custom_model_development"}
            try:
                return self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags)
            except Exception:  # somebody else may have made it just now
                experiment = self.client.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        written = int(experiment.tags.get("eman.store_version", STORE_VERSION))
        if written > STORE_VERSION:
            raise UserError(
                f"the MLflow store {self._shown()} was written by a newer version of eman (store version "
                f"{written}, this one reads {STORE_VERSION}); update eman, or choose another EMAN_HOME."
            )
        return str(experiment.experiment_id)

    def records(self, kind: str | None = None, key: str | None = None) -> list[Record]:
        """Runs of a kind, or of all; the newest first."""
        clauses = ([f"tags.`eman.kind` = '{kind}'"] if kind else []) + ([f"tags.`eman.key` = '{key}'"] if key else [])
        found: list[Record] = []
        token: str | None = None
        while True:
            page = self.patiently(
                lambda token=token: self.client.search_runs(  # type: ignore[misc]
                    [self.experiment_id], " and ".join(clauses), max_results=500, page_token=token
                )
            )
            found += [_record(run) for run in page if "eman.key" in run.data.tags]
            token = page.token
            if not token:
                return found

    def by_key(self, kind: str) -> dict[str, Record]:
        """Runs of a kind by key; where a key has several, a finished one, else the newest."""
        chosen: dict[str, Record] = {}
        for record in self.records(kind):
            if record.key not in chosen or (record.status == "done" and chosen[record.key].status != "done"):
                chosen[record.key] = record
        return chosen

    def begin(
        self,
        kind: str,
        key: str,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        again: str = "",
    ) -> "RunLog":
        """Makes the run with this key, or takes up the one that is there.

        Args:
            kind: Kind of run.
            key: Its key.
            name: For people.
            params: Parameters, written once.
            tags: Tags, written each time.
            parent: Run under which it is shown.
            again: Take up the run although it is done, if it is still this owner (tag ``eman.owner``) that has done it.

        Raises:
            BusyError: Another process is at this run, or has just done it.
        """
        tags = {
            "eman.kind": kind,
            "eman.key": key,
            "eman.host": socket.gethostname(),
            "eman.owner": new_id(),
            "eman.heartbeat": f"{time.time():.0f}",
            **provenance(),
            **tags,
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        while True:
            try:
                return self._begin(kind, key, name, params, tags, again)
            except _GoneError:
                log.info("%s was made twice at once; looking again", name)

    def _begin(
        self, kind: str, key: str, name: str, params: Mapping[str, Any], tags: dict[str, str], again: str
    ) -> "RunLog":
        """What :meth:`begin` does once; raises :class:`_GoneError` if the run is deleted meanwhile."""
        known = self._oldest(kind, key)
        if known is None:
            run_id = self.patiently(
                lambda: self.client.create_run(self.experiment_id, tags=tags, run_name=name)
            ).info.run_id
            first = self._oldest(kind, key)
            if first is not None and first.run_id != run_id:  # two processes made it at once: the older one stands
                self.client.delete_run(run_id)
                if kind != SWEEP:
                    raise BusyError(f"another process has begun {name}")
                run_id = first.run_id
            log = RunLog(self, run_id, 0)
            with self._there(run_id):
                log.write(params=params)
            return log
        if known.status == "done" and kind != SWEEP and (not again or known.tags.get("eman.owner") != again):
            raise BusyError(f"{name} is done already")
        if known.status == "running" and kind != SWEEP and known.tags.get("eman.host") != tags["eman.host"]:
            # On this host the lock of the run's folder has told already; another host tells by its heartbeat.
            raise BusyError(f"{name} is running on {known.tags.get('eman.host')}")
        log = RunLog(self, known.run_id, 0)
        with self._there(known.run_id):
            self.patiently(lambda: self.client.update_run(known.run_id, status="RUNNING"))
            log.write(tags=tags | {"eman.reason": ""} | ({"eman.share": "0"} if again else {}))
        log.last_step = self._last_step(known.run_id)
        if not self.local and kind != SWEEP:
            time.sleep(_SETTLE_SECONDS)
            now = self.patiently(lambda: self.client.get_run(known.run_id)).data.tags
            # Who was slow to write sees itself as the owner, and that another has settled meanwhile.
            settled = now.get("eman.settled") != known.tags.get("eman.settled")
            if now.get("eman.owner") != tags["eman.owner"] or settled:
                raise BusyError(f"another process has taken up {name}")
            log.write(tags={"eman.settled": tags["eman.owner"]})
        return log

    @property
    def local(self) -> bool:
        """Whether the store is a file, which only processes that share this disk can reach."""
        return self.uri.startswith("sqlite:///")

    @property
    def artifacts(self) -> Path:
        """Where a store that is a file keeps artifacts: beside it."""
        return Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts"

    def taken(self, kind: str, key: str) -> bool:
        """Whether a run is done, or another host is at it."""
        known = self._oldest(kind, key)
        if known is None:
            return False
        elsewhere = known.tags.get("eman.host") != socket.gethostname()
        return known.status == "done" or (known.status == "running" and elsewhere)

    @contextlib.contextmanager
    def _there(self, run_id: str) -> Iterator[None]:
        """Around the first writing to a run. Who had made it deletes it if it finds an older one.

        Raises:
            _GoneError: That has happened.
        """
        try:
            yield
        except Exception as error:
            if self.patiently(lambda: self.client.get_run(run_id)).info.lifecycle_stage != "deleted":
                raise
            raise _GoneError(run_id) from error

    def _oldest(self, kind: str, key: str) -> Record | None:
        return min(self.records(kind, key), key=lambda record: (record.start, record.run_id), default=None)

    def _last_step(self, run_id: str) -> int:
        history = self.patiently(lambda: self.client.get_metric_history(run_id, "train/loss"))
        return max((metric.step for metric in history), default=0)

    def patiently(self, call: Callable[[], T]) -> T:
        """Calls until the store answers, for at most ``settings.store_patience`` seconds.

        Raises:
            UserError: It did not answer in that time.
        """
        patience = self.workspace.settings.store_patience
        deadline, pause = time.monotonic() + patience, 0.5
        while True:
            try:
                return call()
            except Exception as error:
                if not _is_away(error):
                    raise
                if time.monotonic() > deadline:
                    raise UserError(f"{self._trouble(error)} It was waited for {patience:.0f} s.") from error
                log.warning("the store does not answer; waiting for it")
                time.sleep(pause)
                pause = min(2 * pause, 5.0)

    def deliver(self) -> int:
        """Writes what processes that have ended had to keep on disk; returns the number of runs that it was for."""
        spools = spool.kept(self.workspace.spool_folder)
        return sum(
            self.patiently(lambda kept=kept: kept.deliver(partial(_send, self, kept.run_id)))  # type: ignore[misc]
            for kept in spools
        )


def _is_away(error: Exception) -> bool:
    """Whether an error says that the store cannot be reached now, rather than that it refuses what it is asked."""
    from mlflow.exceptions import MlflowException, RestException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode

    if isinstance(error, RestException):
        return error.error_code in (ErrorCode.Name(INTERNAL_ERROR), ErrorCode.Name(TEMPORARILY_UNAVAILABLE))
    if isinstance(error, MlflowException):
        text = str(error)
        return "API request to" in text or "OperationalError" in text or "too many 5" in text
    return isinstance(error, ConnectionError)


class RunLog:
    """The writing end of one run.

    Metrics of a step that the run already has are not written again. While the store is away, what was to be written is
    kept on disk, in order, and written as soon as the store answers.
    """

    def __init__(self, store: Store, run_id: str, last_step: int) -> None:
        self.store, self.run_id, self.last_step = store, run_id, last_step
        self._beaten = time.monotonic()
        self._quiet_until = 0.0
        self._spool = spool.Spool(store.workspace.spool_folder, run_id)

    def write(
        self,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
    ) -> bool:
        """One batch, then the status. Returns whether the store has it; otherwise it is kept on disk."""
        now = int(time.time() * 1000)
        entry = {
            "metrics": [(name, float(value), now, step) for name, value in (metrics or {}).items()],
            "params": {name: str(value) for name, value in (params or {}).items()},
            "tags": {name: str(value) for name, value in (tags or {}).items()},
            "status": status,
        }
        if time.monotonic() >= self._quiet_until:
            try:
                self._spool.deliver(partial(_send, self.store, self.run_id), wait=True)
                _send(self.store, self.run_id, entry)
                return True
            except Exception as error:
                if not _is_away(error):
                    raise
                log.warning("the store does not answer; run %s is logged to %s", self.run_id, self._spool.path)
                self._quiet_until = time.monotonic() + _AWAY_SECONDS
        self._spool.append(entry)
        return False

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self.write(tags=tags)

    def epoch(self, number: int, metrics: Mapping[str, float], share: float | None = None) -> None:
        """Metrics of an epoch, and the share of the run that is done."""
        if number > self.last_step:
            self.write(metrics, number, tags=_alive(share))
            self.last_step, self._beaten = number, time.monotonic()

    def beat(self, share: float | None = None) -> None:
        """Says that the run is alive, and which share of it is done; at most every few seconds."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.tag(_alive(share))

    def finish(self, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None) -> None:
        """The run is done; its last metrics are written before it says so."""
        self.write(metrics, self.last_step, tags=tags, status="FINISHED")

    def fail(self, reason: str) -> None:
        """The run gives no number, for this reason. The store counts how often that happened."""
        failures = 1
        with contextlib.suppress(Exception):  # a store that is away now cannot tell; one failure is counted then
            failures += int(self.store.client.get_run(self.run_id).data.tags.get("eman.failures", 0))
        self.write(tags={"eman.reason": reason, "eman.failures": str(failures)}, status="FAILED")

    def interrupt(self) -> None:
        """The run was stopped; it can be taken up again."""
        self.write(status="KILLED")


def _alive(share: float | None) -> dict[str, str]:
    return {"eman.heartbeat": f"{time.time():.0f}"} | ({} if share is None else {"eman.share": f"{share:.4f}"})


def _send(store: Store, run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(name, value, stamp, step) for name, value, stamp, step in entry["metrics"]]
    params = [Param(name, value) for name, value in entry["params"].items()]
    tags = [RunTag(name, value) for name, value in entry["tags"].items()]
    if metrics or params or tags:
        store.client.log_batch(run_id, metrics, params, tags)
    if entry["status"] is not None:
        store.client.set_terminated(run_id, entry["status"])


def _record(run: "Run") -> Record:
    tags = run.data.tags
    known: dict[str, Status] = {"FINISHED": "done", "FAILED": "failed", "RUNNING": "running"}
    status = known.get(run.info.status, "missing")
    if status == "running" and time.time() - float(tags.get("eman.heartbeat", 0)) > SILENT_SECONDS:
        status = "missing"
    return Record(
        run.info.run_id,
        tags.get("eman.kind", ""),
        tags["eman.key"],
        run.info.run_name or "",
        status,
        tags.get("eman.reason", ""),
        run.data.metrics,
        run.data.params,
        tags,
        int(tags.get("eman.failures", 0)),
        (run.info.start_time or 0) / 1000,
        (run.info.end_time or 0) / 1000,
    )


@lru_cache(maxsize=1)
def provenance() -> dict[str, str]:
    """Versions and git revision, for the record."""
    packages = {f"eman.version.{name}": version(name) for name in ("torch", "torchvision", "ray", "mlflow")}
    return {"eman.git": git_revision(), "eman.python": machine.python_version(), **packages}


def git_revision() -> str:
    """The revision of the source that runs, with ``+changes`` if it differs from it; ``unknown`` outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def new_id() -> str:
    """A random identifier."""
    return uuid.uuid4().hex[:12]
