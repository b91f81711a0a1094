"""Export a store as Parquet files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError
from eman.platform.output import output_folder
from eman.platform.store.records import Record
from eman.platform.store.store import Store


def export(store: Store, out: Path) -> dict[str, int]:
    """Write ``runs``, ``params``, ``metrics`` (every value of every step) and ``tags`` as Parquet files to a folder.

    Returns:
        Number of rows by file name.
    """
    import pandas as pd

    records = store.records()
    if not records:
        raise UserError("the store holds no runs yet; `eman sweep table1 table8 --profile quick` makes some.")
    with output_folder(out) as folder:
        tables = _tables(store, records)
        folder.mkdir()
        for name, rows in tables.items():
            pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet", index=False)
    return {name: len(rows) for name, rows in tables.items()}


def _tables(store: Store, records: list[Record]) -> dict[str, list[dict[str, Any]]]:
    keys = {record.run_id: record.key for record in records}
    tables: dict[str, list[dict[str, Any]]] = {"runs": [], "params": [], "metrics": [], "tags": []}
    for record in records:
        run = {"run_id": record.run_id, "kind": record.kind, "key": record.key}
        summary = {
            "name": record.name,
            "status": record.status,
            "reason": record.reason,
            "failures": record.failures,
            "start": _timestamp(record.start),
            "end": _timestamp(record.end),
            "parent": keys.get(record.tags.get("mlflow.parentRunId", "")),
        }
        tables["runs"].append({**run, **summary})
        tables["params"] += [{**run, "name": name, "value": value} for name, value in record.params.items()]
        tables["tags"] += [{**run, "name": name, "value": value} for name, value in record.tags.items()]
        tables["metrics"] += [
            {**run, "name": name, "step": point.step, "time": _timestamp(point.time), "value": point.value}
            for name in sorted(record.metrics)
            for point in store.history(record.run_id, name)
        ]
    return tables


def _timestamp(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, tz=UTC) if seconds else None
