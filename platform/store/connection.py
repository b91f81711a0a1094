"""Open and read an MLflow store, retrying while it is down.

A SQLite file is read without MLflow and without changing it; a missing file reads as empty. Everything else goes
through :attr:`Connection.client`.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eman.platform.errors import UserError
from eman.platform.output import locked
from eman.platform.store.client import check_address, connection_error, is_away, open_client, without_password
from eman.platform.store.records import Point, Record, make_record
from eman.platform.store.sqlite import SqliteReader, UnknownLayout
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Version of the layout; increment it with every change.
STORE_VERSION = 2
EXPERIMENT = "eman"

#: Up to this many keys, query a server for each key, in parallel; beyond it, for all runs of the kind.
_MAX_QUERIES, _PARALLEL_QUERIES = 400, 8

T = TypeVar("T")
log = logging.getLogger("eman")


class Connection:
    """An MLflow store, by workspace or address, and its experiment. It connects on first use.

    Args:
        where: The workspace whose store to open, or an address.
        patient: Retry the first connection too, instead of raising at once.
    """

    def __init__(self, where: Workspace | str, *, patient: bool = False) -> None:
        self.workspace = Workspace(store=where) if isinstance(where, str) else where
        self.uri, self._patient = self.workspace.store, patient
        check_address(self.uri)
        self._reader = SqliteReader(self.path, EXPERIMENT) if self.local else None

    @property
    def local(self) -> bool:
        """Whether the store is a SQLite file on this machine."""
        return self.uri.startswith("sqlite:///")

    @property
    def path(self) -> Path:
        """The SQLite file of a local store."""
        return Path(self.uri.removeprefix("sqlite:///")).absolute()

    @property
    def artifacts(self) -> Path:
        """Artifact folder of a local store, next to its file."""
        return self.path.parent / "artifacts"

    # Reading ----------------------------------------------------------------------------------------------------------

    def records(self, kind: str = "", key: str | None = None) -> list[Record]:
        """Return the runs of a kind, or of all kinds, newest first."""
        return self._search(kind, keys=None if key is None else [key])

    def by_key(self, kind: str, keys: Collection[str] | None = None) -> dict[str, Record]:
        """Return the runs of a kind by key; of duplicates a finished one, else the newest.

        With ``keys``, the cost does not depend on the number of other runs.
        """
        return _by_key(self._search(kind, keys=keys))

    def by_prefix(self, kind: str, prefix: str) -> dict[str, Record]:
        """Return the runs of a kind whose keys begin with `prefix`, like :meth:`by_key`, without reading the others."""
        return _by_key(self._search(kind, prefix=prefix)) if re.fullmatch(r"\w*", prefix) else {}

    def open_records(self) -> list[Record]:
        """Return the runs that MLflow shows as RUNNING."""
        return self._search(status="RUNNING")

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return all logged values of a run's metric, by step."""
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                return self._reader.history(run_id, metric)
        values = self.with_retries(lambda: self.client.get_metric_history(run_id, metric))
        points = [Point(m.step, m.value, m.timestamp / 1000) for m in values]
        return sorted(points, key=lambda point: (point.step, point.time))

    def _search(
        self, kind: str = "", *, keys: Collection[str] | None = None, prefix: str = "", status: str = ""
    ) -> list[Record]:
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                tags = self._reader.experiment_tags()
                if tags is not None:
                    self._check_version(tags)
                return self._reader.records(kind, keys, prefix, status)
        conditions = [f"tags.`eman.kind` = '{kind}'"] if kind else []
        if prefix:
            conditions.append(f"tags.`eman.key` LIKE '{prefix}%'")
        if status:
            conditions.append(f"attributes.status = '{status}'")
        if keys is not None and len(keys) <= _MAX_QUERIES:
            filters = [" and ".join([*conditions, f"tags.`eman.key` = '{key}'"]) for key in keys]
            with ThreadPoolExecutor(_PARALLEL_QUERIES) as pool:
                records = [record for matches in pool.map(self._query, filters) for record in matches]
            return sorted(records, key=lambda record: (-record.start, record.run_id))
        records = self._query(" and ".join(conditions))
        wanted = None if keys is None else set(keys)
        return [r for r in records if (wanted is None or r.key in wanted) and r.key.startswith(prefix)]

    def _query(self, condition: str) -> list[Record]:
        """Return the runs that match an MLflow filter, from all pages."""
        records: list[Record] = []
        token: str | None = None
        while True:
            search = partial(
                self.client.search_runs, [self.experiment_id], condition, max_results=500, page_token=token
            )
            page = self.with_retries(search)
            records += [record_of(run) for run in page if "eman.key" in run.data.tags]
            token = page.token
            if not token:
                return records

    # Opening ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _opened(self) -> "tuple[MlflowClient, str]":
        try:
            with self._creation_lock():
                return self.with_retries(self._open) if self._patient else self._open()
        except Exception as error:  # database drivers raise unrelated types
            raise UserError(connection_error(self.uri, error)) from error

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client. The store is created if needed; :class:`UserError` if it cannot be used."""
        return self._opened[0]

    @property
    def experiment_id(self) -> str:
        """MLflow's experiment id. The experiment is created if needed."""
        return self._opened[1]

    @contextlib.contextmanager
    def _creation_lock(self) -> Iterator[None]:
        """Keep other processes from creating the tables of the same SQLite file."""
        if not self.local:
            yield
            return
        if self.path.is_dir():
            raise UserError(f"the store {self.path} is a folder; give the SQLite file in it, or the folder as --home.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path.parent} cannot be created ({error.strerror}); give another --home.") from None
        with locked(self.path.with_name(f"{self.path.name}.lock"), wait=True):
            yield

    def _open(self) -> "tuple[MlflowClient, str]":
        opened = open_client(self.uri)
        experiment = opened.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = self.artifacts.as_uri() if self.local else None
            # Without this kind, MLflow's UI opens on its page for language models.
            tags = {"eman.store_version": str(STORE_VERSION), "mlflow.experimentKind": "custom_model_development"}
            try:
                return opened, opened.create_experiment(EXPERIMENT, artifact_location=location, tags=tags)
            except Exception:  # another process may have just created it
                experiment = opened.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        self._check_version(experiment.tags)
        return opened, str(experiment.experiment_id)

    def _check_version(self, tags: Mapping[str, str]) -> None:
        text = tags.get("eman.store_version", "")
        if text != str(STORE_VERSION):
            older = text.isdecimal() and int(text) < STORE_VERSION
            raise UserError(
                f"the MLflow store {without_password(self.uri)} was written by {'an older' if older else 'a newer'} "
                f"version of eman (store version {text[:20] or 'unknown'}, this one reads {STORE_VERSION}); "
                f"{'' if older else 'update eman, or '}choose another EMAN_HOME."
            )

    def with_retries(self, call: Callable[[], T]) -> T:
        """Return a call's result, retrying for up to ``settings.store_patience`` seconds while the store is down."""
        patience = self.workspace.settings.store_patience
        deadline, pause = time.monotonic() + patience, 0.5
        while True:
            try:
                return call()
            except UserError:
                raise
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() > deadline:
                    message = f"{connection_error(self.uri, error)} Gave up after {patience:.0f} s."
                    raise UserError(message) from error
                log.warning("the store does not answer; retrying")
                time.sleep(pause)
                pause = min(2 * pause, 5.0)


def _by_key(records: Iterable[Record]) -> dict[str, Record]:
    """Return records by key; where a key has several, a finished one, else the first."""
    chosen: dict[str, Record] = {}
    for record in records:
        if record.key not in chosen or (record.status == "done" and chosen[record.key].status != "done"):
            chosen[record.key] = record
    return chosen


def record_of(run: "Run") -> Record:
    """Return the record of an MLflow run that has a key."""
    info, data, name = run.info, run.data, run.info.run_name or ""
    return make_record(
        info.run_id, name, info.status, info.start_time, info.end_time, data.metrics, data.params, data.tags
    )
