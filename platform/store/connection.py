"""Open and read an MLflow store, retrying while it is down.

A SQLite file and a server are read without MLflow and without changing them; what is missing reads as empty. Everything
else goes through :attr:`Connection.client`.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eman.platform.errors import UserError
from eman.platform.output import locked
from eman.platform.store.client import check_address, connection_error, is_away, open_client, without_password
from eman.platform.store.records import SWEEP_ID, Point, Record, Search, make_record
from eman.platform.store.rest import ServerReader, readable
from eman.platform.store.sqlite import SqliteReader, UnknownLayout
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Version of the layout; increment it with every change.
STORE_VERSION = 2

#: Keys to look up at once, one request each.
_PARALLEL = 8

#: Runs per page.
_PAGE = 500

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
        self._answered = self._found = False
        check_address(self.uri)
        self._reader = SqliteReader(self.path, self.workspace.experiment) if self.local else None
        self._server = ServerReader(self.uri, self.workspace.experiment) if readable(self.uri) else None

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

    def records(
        self, kind: str = "", key: str | None = None, *, status: str = "", parent: str = "", limit: int = 0
    ) -> list[Record]:
        """Return runs, newest first: of a kind, with a key, with MLflow's status, of a parent; at most ``limit``."""
        keys = None if key is None else (key,)
        return self._search(Search(kind, keys, status=status, parent=parent, limit=limit))

    def by_key(self, kind: str, keys: Collection[str] | None = None) -> dict[str, Record]:
        """Return the runs of a kind by key; of duplicates a finished one, else the newest.

        With ``keys``, the cost does not depend on the number of other runs.
        """
        return _by_key(self._search(Search(kind, None if keys is None else tuple(keys))))

    def by_prefix(self, kind: str, prefix: str) -> dict[str, Record]:
        """Return the runs of a kind whose keys have this prefix, like :meth:`by_key`, without reading the others."""
        return _by_key(self._search(Search(kind, prefix=prefix))) if re.fullmatch(r"\w*", prefix) else {}

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return all logged values of a run's metric, by step."""
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                return self._reader.history(run_id, metric)
        if self._server is not None:
            points = self.with_retries(partial(self._server.history, run_id, metric))
        else:
            values = self.with_retries(lambda: self.client.get_metric_history(run_id, metric))
            points = [Point(m.step, m.value, m.timestamp / 1000) for m in values]
        return sorted(points, key=lambda point: (point.step, point.time))

    def _search(self, search: Search) -> list[Record]:
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                tags = self._reader.experiment_tags()
                if tags is not None:
                    self._check_version(tags)
                return self._reader.records(search)
        if not self._exists():
            return []
        return self._query(search) if search.keys is None else self._by_keys(search)

    def _exists(self) -> bool:
        """Return whether a server holds the experiment. Without a way to ask, it is created."""
        if self._server is None:
            _ = self.experiment_id
        elif not self._found:
            ask = self._server.experiment_tags
            try:
                tags = self.with_retries(ask) if self._patient or self._answered else ask()
            except Exception as error:
                raise UserError(str(error) if self._answered else connection_error(self.uri, error)) from error
            self._answered, self._found = True, tags is not None
            if tags is not None:
                self._check_version(tags)
        return self._server is None or self._found

    def _by_keys(self, search: Search) -> list[Record]:
        """Look up keys on a server, whose filters take only one: a few by key, then the other runs of their sweeps."""
        records: list[Record] = []
        left, sweeps = dict.fromkeys(search.keys or ()), set[str]()
        while left:
            probes = list(left)[:_PARALLEL]
            with ThreadPoolExecutor(_PARALLEL) as pool:
                found = list(
                    chain.from_iterable(pool.map(self._query, (replace(search, keys=(key,)) for key in probes)))
                )
            records += found
            for key in probes:
                del left[key]
            for sweep in {record.tags.get(SWEEP_ID, "") for record in found} - sweeps - {""} if left else ():
                sweeps.add(sweep)
                # The limit keeps a much larger sweep from being read whole; what it leaves is looked up by key.
                beside = self._query(Search(search.kind, sweep=sweep, limit=_PAGE + 2 * len(left)))
                records += [record for record in beside if record.key in left]
                for record in beside:
                    left.pop(record.key, None)
        return sorted(records, key=lambda record: (-record.start, record.run_id))

    def _query(self, search: Search) -> list[Record]:
        """Return the runs of a search for at most one key, from all pages."""
        records: list[Record] = []
        token: str | None = None
        while True:
            page = min(_PAGE, search.limit - len(records)) if search.limit else _PAGE
            found, token = self.with_retries(partial(self._page, _condition(search), page, token))
            records += [record for record in found if record.key.startswith(search.prefix)]
            if not token or len(records) >= search.limit > 0:
                return records

    def _page(self, condition: str, limit: int, token: str | None) -> tuple[list[Record], str | None]:
        if self._server is not None:
            return self._server.search(condition, limit, token)
        page = self.client.search_runs([self.experiment_id], condition, max_results=limit, page_token=token)
        return [record_of(run) for run in page if "eman.key" in run.data.tags], page.token

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
        opened, name = open_client(self.uri), self.workspace.experiment
        experiment = opened.get_experiment_by_name(name)
        if experiment is None:
            location = self.artifacts.as_uri() if self.local else None
            # Without this kind, MLflow's UI opens on its page for language models.
            tags = {"eman.store_version": str(STORE_VERSION), "mlflow.experimentKind": "custom_model_development"}
            try:
                return opened, opened.create_experiment(name, artifact_location=location, tags=tags)
            except Exception:  # another process may have just created it
                experiment = opened.get_experiment_by_name(name)
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


def _condition(search: Search) -> str:
    """Return a search for at most one key as an MLflow filter."""
    tags = {
        "eman.kind": search.kind,
        "eman.key": search.keys[0] if search.keys else "",
        "mlflow.parentRunId": search.parent,
        SWEEP_ID: search.sweep,
    }
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items() if value]
    conditions += [f"tags.`eman.key` LIKE '{search.prefix}%'"] if search.prefix else []
    conditions += [f"attributes.status = '{search.status}'"] if search.status else []
    return " and ".join(conditions)


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
