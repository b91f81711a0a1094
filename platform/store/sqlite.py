"""Read a SQLite store without MLflow, whose import takes 2.6 s of CPU and 170 MB.

``MlflowClient`` also cannot look up many keys at once, creates a missing file and needs a writable folder. This module
reads the tables that MLflow has kept since version 1 (experiments, runs, tags, params, metrics) and raises
:class:`UnknownLayout` if they differ; the caller then uses MLflow.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError
from eman.platform.store.records import Point, Record, make_record

#: Values per query; old builds of SQLite allow 999.
_MAX_VALUES = 500


class UnknownLayout(Exception):
    """The database does not have the expected tables."""


class SqliteReader:
    """Reads one experiment of a SQLite file. A missing file reads as empty.

    Args:
        path: The database.
        experiment: Name of the experiment.
    """

    def __init__(self, path: Path, experiment: str) -> None:
        self.path, self.experiment = path, experiment

    def _exists(self) -> bool:
        try:
            return self.path.exists()
        except OSError as error:
            raise UserError(f"the store {self.path} cannot be read ({error.strerror}).") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self.path.is_dir():
            raise UserError(f"the store {self.path} is a folder; give the SQLite file in it, or the folder as --home.")
        try:
            with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise UnknownLayout(str(error)) from error
            raise UserError(f"the store {self.path} cannot be read ({error}).") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"the store {self.path} is not a SQLite database ({error}); give another file.") from error

    def experiment_tags(self) -> tuple[str, dict[str, str]] | None:
        """Return the experiment's id and tags, or ``None`` if it does not exist."""
        if not self._exists():
            return None
        with self._connected() as connection:
            query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
            row = connection.execute(query, (self.experiment,)).fetchone()
            if row is None:
                return None
            query = "SELECT key, value FROM experiment_tags WHERE experiment_id = ?"
            return str(row[0]), dict(connection.execute(query, row).fetchall())

    def records(self, where: Sequence[tuple[str, Sequence[str]]]) -> list[Record]:
        """Return the runs that have a key, newest first.

        Args:
            where: Allowed values by tag; the name ``status`` stands for MLflow's status.
        """
        known = self.experiment_tags()
        if known is None:
            return []
        records: list[Record] = []
        with self._connected() as connection:
            connection.execute("BEGIN")  # all queries see the same state
            for conditions in _split(where):
                records += _select(connection, int(known[0]), conditions)
        return sorted(records, key=lambda record: (-record.start, record.run_id))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with a prefix, of runs of every kind and state."""
        if not self._exists():
            return []
        query = "SELECT DISTINCT value FROM tags WHERE key = 'eman.key' AND value GLOB ?"
        with self._connected() as connection:
            return [key for (key,) in connection.execute(query, (f"{prefix}*",))]

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return all logged values of a run's metric, by step."""
        if not self._exists():
            return []
        query = (
            "SELECT step, value, is_nan, timestamp FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step, timestamp"
        )
        with self._connected() as connection:
            rows = connection.execute(query, (run_id, metric)).fetchall()
        return [Point(step, _value(value, is_nan), time / 1000) for step, value, is_nan, time in rows]


def _value(value: float, is_nan: int) -> float:
    return float("nan") if is_nan else float(value)


def _split(where: Sequence[tuple[str, Sequence[str]]]) -> Iterator[list[tuple[str, Sequence[str]]]]:
    """Yield the conditions with the last one's values split into batches that fit a query."""
    if not where:
        yield []
        return
    *first, (name, values) = where
    for start in range(0, len(values), _MAX_VALUES):
        yield [*first, (name, values[start : start + _MAX_VALUES])]


def _select(
    connection: sqlite3.Connection, experiment: int, where: Sequence[tuple[str, Sequence[str]]]
) -> list[Record]:
    query = "SELECT run_uuid FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
    values: list[Any] = [experiment]
    for name, wanted in where:
        if name == "status":
            query += " AND status = ?"
            values += wanted
            continue
        query += f" AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value IN ({_placeholders(wanted)}))"  # noqa: S608
        values += [name, *wanted]
    chosen = [row[0] for row in connection.execute(query, values)]
    records: list[Record] = []
    for start in range(0, len(chosen), _MAX_VALUES):
        records += _read_runs(connection, chosen[start : start + _MAX_VALUES])
    return records


def _placeholders(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _read_runs(connection: sqlite3.Connection, ids: Sequence[str]) -> Iterator[Record]:
    """Yield the records of runs that have a key."""

    def rows(columns: str, table: str) -> list[Any]:
        # Columns and tables are constants of this module.
        query = f"SELECT run_uuid, {columns} FROM {table} WHERE run_uuid IN ({_placeholders(ids)})"  # noqa: S608
        return connection.execute(query, ids).fetchall()

    metrics: dict[str, dict[str, float]] = {run_id: {} for run_id in ids}
    params: dict[str, dict[str, str]] = {run_id: {} for run_id in ids}
    tags: dict[str, dict[str, str]] = {run_id: {} for run_id in ids}
    for run_id, name, value, is_nan in rows("key, value, is_nan", "latest_metrics"):
        metrics[run_id][name] = _value(value, is_nan)
    for table, kept in (("params", params), ("tags", tags)):
        for run_id, name, text in rows("key, value", table):
            kept[run_id][name] = text
    for run_id, name, status, start, end in rows("name, status, start_time, end_time", "runs"):
        if "eman.key" in tags[run_id]:
            yield make_record(run_id, name or "", status, start, end, metrics[run_id], params[run_id], tags[run_id])
