"""MLflow as the ledger: every sweep, training and evaluation is a run with a key, searched before it is made.

By default the store is a SQLite file in the home folder and needs no server; ``MLFLOW_TRACKING_URI`` names another.
Only worker 0 of a training writes, in batches.
"""

import logging
import os
import platform as machine  # noqa: TID251
import re
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eman.platform.errors import UserError
from eman.platform.home import home_folder

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Raised by one whenever the layout of the store changes.
STORE_VERSION = 1
EXPERIMENT = "eman"

#: A run that says RUNNING and has been silent for so many seconds has been killed.
SILENT_SECONDS = 90.0
_BEAT_SECONDS = 20.0

TRAINING, EVALUATION, SWEEP = "training", "evaluation", "sweep"

for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("DO_NOT_TRACK", "true"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
    ("GIT_PYTHON_REFRESH", "quiet"),
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
):
    os.environ.setdefault(_name, _value)


Status = Literal["done", "failed", "running", "missing"]


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
    start: float
    end: float


def store_uri() -> str:
    """``$MLFLOW_TRACKING_URI``, by default ``mlflow.db`` in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home_folder() / 'mlflow.db'}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Store:
    """An MLflow store, with the experiment in which everything is kept.

    Args:
        uri: Where; by default :func:`store_uri`.

    Raises:
        UserError: It cannot be reached, or a newer version wrote it.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or store_uri()
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self.client: MlflowClient = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = self._experiment()
        except MlflowException as error:
            raise UserError(self._trouble(error)) from error
        except Exception as error:  # drivers of databases raise kinds of their own
            raise UserError(self._trouble(error)) from error

    def _trouble(self, error: Exception) -> str:
        if isinstance(error, UserError):
            return str(error)
        # HTTP errors quote the whole address; whoever reads a log must not find a password in it.
        text = re.sub(r"://[^/@\s]*@", "://...@", _first_line(error))
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
            local = self.uri.startswith("sqlite:///")
            location = (home_folder() / "artifacts").as_uri() if local else None
            return self.client.create_experiment(
                EXPERIMENT, artifact_location=location, tags={"eman.store_version": str(STORE_VERSION)}
            )
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
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], " and ".join(clauses), max_results=500, page_token=token
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
    ) -> "RunLog":
        """Makes the run with this key, or takes up the one that is there."""
        known = self.records(kind, key)
        tags = {"eman.kind": kind, "eman.key": key, "eman.host": socket.gethostname(), **provenance(), **tags}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if known:
            run_id = known[0].run_id
            self.client.update_run(run_id, status="RUNNING")
            log = RunLog(self, run_id, self._last_step(run_id))
            log.tag(tags | {"eman.reason": ""})
            return log
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        log = RunLog(self, run.info.run_id, 0)
        log.write(params=params)
        return log

    def _last_step(self, run_id: str) -> int:
        history = self.client.get_metric_history(run_id, "train/loss")
        return max((metric.step for metric in history), default=0)


class RunLog:
    """The writing end of one run. Metrics of a step that the run already has are not written again."""

    def __init__(self, store: Store, run_id: str, last_step: int) -> None:
        self.store, self.run_id, self.last_step = store, run_id, last_step
        self._beaten = 0.0
        self.beat()

    def write(
        self,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """One batch to the store."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self.store.client.log_batch(
            self.run_id,
            [Metric(k, float(v), now, step) for k, v in (metrics or {}).items()],
            [Param(k, str(v)) for k, v in (params or {}).items()],
            [RunTag(k, str(v)) for k, v in (tags or {}).items()],
        )

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self.write(tags=tags)

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Metrics of an epoch."""
        if number > self.last_step:
            self.write(metrics, number, tags={"eman.heartbeat": f"{time.time():.0f}"})
            self.last_step, self._beaten = number, time.monotonic()

    def beat(self) -> None:
        """Says that the run is alive; at most every few seconds."""
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.tag({"eman.heartbeat": f"{time.time():.0f}"})

    def finish(self, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None) -> None:
        """The run is done; its last metrics are written before it says so."""
        self.write(metrics, self.last_step, tags=tags)
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def fail(self, reason: str) -> None:
        """The run gives no number, for this reason."""
        self.tag({"eman.reason": reason})
        self.store.client.set_terminated(self.run_id, "FAILED")


def _record(run: "Run") -> Record:
    tags = run.data.tags
    known: dict[str, Status] = {"FINISHED": "done", "FAILED": "failed", "RUNNING": "running"}
    status = known.get(run.info.status, "missing")
    if (
        status == "running"
        and tags["eman.kind"] != SWEEP
        and time.time() - float(tags.get("eman.heartbeat", 0)) > SILENT_SECONDS
    ):
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
