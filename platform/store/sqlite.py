"""Read a SQLite store without MLflow, whose import takes 2.6 s of CPU and 170 MB.

``MlflowClient`` also cannot look up many keys at once, creates a missing file and needs a writable folder. This module
reads the tables that MLflow has kept since version 1 (experiments, runs, tags, params, metrics) and raises
:class:`UnknownLayout` if they differ; the caller then uses MLflow.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP_ID, Point, Record, Search, make_record

#: SQL for a metric's value, which is read with :class:`float`.
_VALUE = "IIF(is_nan, 'nan', value)"

#: Condition that a run has a key with a prefix, checked for each run that meets the other conditions.
_PREFIXED = " AND EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = 'eman.key' AND t.value GLOB ?)"


class UnknownLayout(Exception):
    """The database does not have the expected tables."""


class SqliteReader:
    """Reads one experiment of a SQLite file, by name. A missing file reads as empty."""

    def __init__(self, path: Path, experiment: str) -> None:
        self.path, self.experiment = path, experiment

    @contextmanager
    def _opened(self) -> Iterator[Callable[..., list[Any]]]:
        """Yield a function from a query and its values to rows. All its answers are from the same state of the file."""
        if self.path.is_dir():
            raise UserError(f"the store {self.path} is a folder; give the SQLite file in it, or the folder as --home.")
        try:
            if not self.path.exists():
                yield lambda *_: []
                return
            with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
                connection.execute("BEGIN")
                yield lambda query, *values: connection.execute(query, values).fetchall()
        except (OSError, sqlite3.OperationalError) as error:
            if "no such" in str(error):
                raise UnknownLayout(str(error)) from error
            raise UserError(f"the store {self.path} cannot be read ({error}).") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"the store {self.path} is not a SQLite database ({error}); give another file.") from error

    def experiment_tags(self) -> dict[str, str] | None:
        """Return the experiment's tags, or ``None`` if it does not exist."""
        query = (
            "SELECT t.key, t.value FROM experiments LEFT JOIN experiment_tags t USING (experiment_id) "
            "WHERE name = ? AND lifecycle_stage = 'active'"
        )
        with self._opened() as rows:
            return dict(rows(query, self.experiment)) or None

    def records(self, search: Search) -> list[Record]:
        """Return the runs that have a key and match a search, newest first."""
        query = (
            "SELECT run_uuid, r.name, status, start_time, end_time FROM runs r JOIN experiments e USING (experiment_id)"
            " WHERE e.name = ? AND e.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active'"
        )
        tagged = " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = '{}' AND value {})"
        conditions: list[tuple[str, str | None]] = [
            (" AND status = ?", search.status or None),
            # A condition on a tag reads that tag of all runs; with keys, the kind is filtered among the few runs found.
            (tagged.format("eman.kind", "= ?"), search.kind or None if search.keys is None else None),
            (_PREFIXED, f"{search.prefix}*" if search.keys is None else None),
            (tagged.format("eman.key", "IN (SELECT value FROM json_each(?))"), _json(search.keys)),
            (tagged.format("mlflow.parentRunId", "= ?"), search.parent or None),
            (tagged.format(SWEEP_ID, "= ?"), search.sweep or None),
            (" ORDER BY start_time DESC, run_uuid LIMIT ?", str(search.limit or -1)),
        ]
        used = [(condition, value) for condition, value in conditions if value is not None]
        with self._opened() as rows:
            runs = rows(query + "".join(condition for condition, _ in used), self.experiment, *(v for _, v in used))

            def by_run(table: str, value: str, kind: type) -> dict[str, dict[str, Any]]:
                found: dict[str, dict[str, Any]] = defaultdict(dict)
                query = f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
                for run_id, name, text in rows(query, _json([run[0] for run in runs])):
                    found[run_id][name] = kind(text)
                return found

            metrics = by_run("latest_metrics", _VALUE, float)
            params, tags = by_run("params", "value", str), by_run("tags", "value", str)
        return [
            make_record(run_id, name or "", status, start, end, metrics[run_id], params[run_id], tags[run_id])
            for run_id, name, status, start, end in runs
            if search.kind in ("", tags[run_id].get("eman.kind"))
        ]

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return all logged values of a run's metric, by step."""
        query = f"SELECT step, {_VALUE}, timestamp FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step, timestamp"  # noqa: S608 - a constant
        with self._opened() as rows:
            return [Point(step, float(value), time / 1000) for step, value, time in rows(query, run_id, metric)]


def _json(values: Collection[str] | None) -> str | None:
    return None if values is None else json.dumps(list(values))
