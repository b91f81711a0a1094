"""Opening an MLflow store, reading it, and waiting for it.

Reading a SQLite file needs no MLflow and changes nothing; a store that does not exist reads as empty. Everything else
goes through :attr:`Connection.client`.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eman.platform.errors import UserError
from eman.platform.lock import locked
from eman.platform.store.client import check_address, is_away, open_client, shown, trouble
from eman.platform.store.records import Point, Record, make_record
from eman.platform.store.sqlite import SqliteReader, UnknownLayout
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Raised by one whenever the layout of the store changes.
STORE_VERSION = 2
EXPERIMENT = "eman"

#: A server is asked for single keys up to this number, several at once; beyond it, for all runs of a kind.
_MOST_QUESTIONS, _QUESTIONS_AT_ONCE = 400, 8

T = TypeVar("T")
log = logging.getLogger("eman")


class Connection:
    """An MLflow store, with the experiment in which everything is kept. Making one connects to nothing yet.

    Args:
        where: The workspace whose store it is, or an address.
        patient: Wait for a store that does not answer already when connecting, instead of raising at once.

    Raises:
        UserError: The address is none of a store.
    """

    def __init__(self, where: Workspace | str, *, patient: bool = False) -> None:
        self.workspace = Workspace(store=where) if isinstance(where, str) else where
        self.uri, self._patient = self.workspace.store, patient
        check_address(self.uri)
        self._reader = SqliteReader(self.path, EXPERIMENT) if self.local else None

    @property
    def local(self) -> bool:
        """Whether the store is a file, which only processes that share this disk can reach."""
        return self.uri.startswith("sqlite:///")

    @property
    def path(self) -> Path:
        """The file of a store that is one."""
        return Path(self.uri.removeprefix("sqlite:///")).absolute()

    @property
    def artifacts(self) -> Path:
        """Where a store that is a file keeps artifacts: beside it."""
        return self.path.parent / "artifacts"

    # Reading ----------------------------------------------------------------------------------------------------------

    def records(self, kind: str | None = None, key: str | None = None) -> list[Record]:
        """Return runs of a kind, or of all kinds; the newest first."""
        kinds = [("eman.kind", [kind])] if kind else []
        return self._search([*kinds, *([("eman.key", [key])] if key else [])])

    def by_key(self, kind: str, keys: Collection[str] | None = None) -> dict[str, Record]:
        """Return runs of a kind by key; where a key has several, a finished one, else the newest.

        Args:
            kind: Kind of run.
            keys: Only these; what it costs does not grow with the number of other runs.
        """
        wanted = [("eman.kind", [kind]), *([] if keys is None else [("eman.key", sorted(keys))])]
        chosen: dict[str, Record] = {}
        for record in self._search(wanted) if keys is None or keys else ():
            if record.key not in chosen or (record.status == "done" and chosen[record.key].status != "done"):
                chosen[record.key] = record
        return chosen

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return every value of a metric that a run logged, in the order of steps."""
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                return self._reader.history(run_id, metric)
        found = self.patiently(lambda: self.client.get_metric_history(run_id, metric))
        points = [Point(m.step, m.value, m.timestamp / 1000) for m in found]
        return sorted(points, key=lambda point: (point.step, point.time))

    def open_records(self) -> list[Record]:
        """Return the runs that MLflow shows as RUNNING."""
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                return self._reader.records([("status", ["RUNNING"])])
        return self._ask("attributes.status = 'RUNNING'")

    def _search(self, where: list[tuple[str, list[str]]]) -> list[Record]:
        if self._reader is not None:
            with contextlib.suppress(UnknownLayout):
                known = self._reader.experiment_tags()
                if known is not None:
                    self._check_version(known[1])
                return self._reader.records(where)
        several = next((values for _, values in where if len(values) > 1), [])
        fixed = [f"tags.`{name}` = '{values[0]}'" for name, values in where if values is not several]
        if 1 < len(several) <= _MOST_QUESTIONS:
            filters = [" and ".join([*fixed, f"tags.`eman.key` = '{key}'"]) for key in several]
            with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
                found = [record for records in pool.map(self._ask, filters) for record in records]
            return sorted(found, key=lambda record: (-record.start, record.run_id))
        found = self._ask(" and ".join(fixed))
        return [record for record in found if not several or record.key in set(several)]

    def _ask(self, condition: str) -> list[Record]:
        """Return what MLflow finds, page by page."""
        found: list[Record] = []
        token: str | None = None
        while True:
            search = partial(
                self.client.search_runs, [self.experiment_id], condition, max_results=500, page_token=token
            )
            page = self.patiently(search)
            found += [record_of(run) for run in page if "eman.key" in run.data.tags]
            token = page.token
            if not token:
                return found

    # Opening ----------------------------------------------------------------------------------------------------------

    @cached_property
    def _opened(self) -> "tuple[MlflowClient, str]":
        try:
            with self._alone():
                return self.patiently(self._open) if self._patient else self._open()
        except Exception as error:  # drivers of databases raise kinds of their own
            raise UserError(trouble(self.uri, error)) from error

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client; asking for it makes the store where there is none.

        Raises:
            UserError: The store cannot be reached, or a newer version wrote it.
        """
        return self._opened[0]

    @property
    def experiment_id(self) -> str:
        """MLflow's identifier of the experiment; asking for it makes the experiment where there is none."""
        return self._opened[1]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from making the same file's tables at the same moment."""
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
        return opened, self._experiment(opened)

    def _experiment(self, opened: "MlflowClient") -> str:
        experiment = opened.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            location = self.artifacts.as_uri() if self.local else None
            # The kind keeps MLflow's UI from opening on traces of language models.
            tags = {"eman.store_version": str(STORE_VERSION), "mlflow.experimentKind": "custom_model_development"}
            try:
                return opened.create_experiment(EXPERIMENT, artifact_location=location, tags=tags)
            except Exception:  # another process may have made it just now
                experiment = opened.get_experiment_by_name(EXPERIMENT)
                if experiment is None:
                    raise
        self._check_version(experiment.tags)
        return str(experiment.experiment_id)

    def _check_version(self, tags: Mapping[str, str]) -> None:
        text = tags.get("eman.store_version", "")
        if text != str(STORE_VERSION):
            older = text.isdecimal() and int(text) < STORE_VERSION
            raise UserError(
                f"the MLflow store {shown(self.uri)} was written by {'an older' if older else 'a newer'} version "
                f"of eman (store version {text[:20] or 'unknown'}, this one reads {STORE_VERSION}); "
                f"{'' if older else 'update eman, or '}choose another EMAN_HOME."
            )

    def patiently(self, call: Callable[[], T]) -> T:
        """Call until the store answers, for at most ``settings.store_patience`` seconds.

        Raises:
            UserError: It did not answer in that time.
        """
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
                    message = f"{trouble(self.uri, error)} Gave up after {patience:.0f} s."
                    raise UserError(message) from error
                log.warning("the store does not answer; waiting for it")
                time.sleep(pause)
                pause = min(2 * pause, 5.0)


def record_of(run: "Run") -> Record:
    """Return the record of an MLflow run that has a key."""
    info, data = run.info, run.data
    return make_record(
        info.run_id,
        info.run_name or "",
        info.status,
        info.start_time,
        info.end_time,
        data.metrics,
        data.params,
        data.tags,
    )
