"""What commands cost in a store of many runs: `make bench-store`. Nothing here passes or fails.

The store holds the quickstart's sweep, Tables 1 and 8 at profile quick, alone or beside 10,000 finished runs of other
sweeps of its shape; it is a SQLite file, or PostgreSQL behind MLflow's server. Its rows are copies of the rows of a
small real sweep. For each command: processor seconds (user and system) and seconds by the clock.

Usage: many_runs.py [--runs N] [--sweep HOME] [--no-launch] [sqlite] [server]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import Server, create_database, run_postgres
from sqlalchemy import MetaData, create_engine, insert, select
from startup import cost

from eman.evaluation.results.values import Results
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest

RUNS, ROUNDS = 10_000, 3
REAL = ("sweep", "grid", "--method", "fixmatch,moco,byol", "--scheme", "bn,eman", "--profile", "smoke")
SMALL = ("sweep", "grid", "--method", "moco", "--scheme", "bn", "--profile", "smoke", "--set", "epochs=1", "--seeds")
COMMANDS = (
    ("table", "1", "8", "--profile", "quick"),
    ("status",),
    ("runs", "list"),
    ("figure", "3", "--profile", "quick", "--out", "figure3.svg"),
    ("report", "table1 + table8", "--out", "report.html"),
)
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")
INPUTS = ("inputs", "input_tags")

#: Rows by table.
Rows = dict[str, list[dict[str, Any]]]


class Copies:
    """Copies of a real sweep's rows as other sweeps."""

    def __init__(self, real: Path) -> None:
        engine = create_engine(f"sqlite:///{real / 'mlflow.db'}")
        tables = MetaData()
        tables.reflect(engine)
        self.originals: dict[str, Rows] = {}  # by kind, and by method for trainings
        with engine.connect() as connection:
            names = (*TABLES, *INPUTS, "datasets")
            rows = {n: [dict(r) for r in connection.execute(select(tables.tables[n])).mappings()] for n in names}
        self.datasets = rows["datasets"]
        for run in rows["runs"]:
            own = {name: [row for row in rows[name] if row["run_uuid"] == run["run_uuid"]] for name in TABLES}
            own["inputs"] = [row for row in rows["inputs"] if row["destination_id"] == run["run_uuid"]]
            used = {row["input_uuid"] for row in own["inputs"]}
            own["input_tags"] = [row for row in rows["input_tags"] if row["input_uuid"] in used]
            tags = {row["key"]: row["value"] for row in own["tags"]}
            kind = tags["eman.kind"]
            self.originals[f"{kind} {tags['method']}" if kind == "training" else kind] = own

    def of(self, sweep: Sweep, experiment: int, *, own: bool) -> Rows:
        """Return a sweep's rows, as if it had run; unless it is its ``own``, under keys that nobody asks for."""
        keys = {key: key if own else uuid.uuid4().hex[:16] for key in (sweep.key, *sweep.trainings, *sweep.evaluations)}
        ids = {key: uuid.uuid4().hex for key in keys}
        copied: Rows = {name: [] for name in (*TABLES, *INPUTS)}

        def copy(kind: str, key: str, name: str, tags: dict[str, str]) -> None:
            tags = {**tags, "eman.key": keys[key], "mlflow.runName": name}
            for table in TABLES:
                for row in self.originals[kind][table]:
                    new = {**row, "run_uuid": ids[key]}
                    if table == "runs":
                        start = row["start_time"] - (0 if own else 86_400_000)
                        new |= {"name": name, "experiment_id": experiment, "start_time": start}
                    elif table == "tags":
                        new["value"] = tags.get(row["key"], row["value"])
                    copied[table].append(new)

            renamed = {row["input_uuid"]: uuid.uuid4().hex for row in self.originals[kind]["inputs"]}
            for table in INPUTS:
                for row in self.originals[kind][table]:
                    new = {**row, "input_uuid": renamed[row["input_uuid"]]}
                    copied[table].append(new | ({"destination_id": ids[key]} if table == "inputs" else {}))

        profile = {"profile": sweep.profile.name}
        members = ",".join(keys[key] for key in sweep.trainings)
        tags = {**profile, "eman.request": sweep.request.model_dump_json(), "eman.trainings": members}
        copy("sweep", sweep.key, f"{sweep.name if own else keys[sweep.key]} · {sweep.profile.name}", tags)
        for key, spec in sweep.trainings.items():
            tags = {**profile, "mlflow.parentRunId": ids[sweep.key], "eman.sweep": ids[sweep.key]}
            copy(f"training {spec.entry.title}", key, sweep.titles[key], tags)
        for key, evaluation in sweep.evaluations.items():
            tags = {**profile, "mlflow.parentRunId": ids[evaluation.run], "eman.run": keys[evaluation.run]}
            tags["eman.sweep"] = ids[sweep.key]
            copy("evaluation", key, sweep.titles[evaluation.run], tags)
        return copied


def fill(database: str, store: Store, copies: Copies, runs: int) -> int:
    """Add the quickstart's sweep to a database, beside at least so many other runs; return the number of all."""
    sweep, experiment = plan(SweepRequest(tables=("table1", "table8"))), int(store.experiment_id)
    engine, tables, added = create_engine(database), MetaData(), 0
    tables.reflect(engine)
    with engine.begin() as connection:
        datasets = [{**row, "experiment_id": experiment} for row in copies.datasets]
        if datasets:
            connection.execute(insert(tables.tables["datasets"]), datasets)
        while added <= runs:
            rows = copies.of(sweep, experiment, own=added == 0)
            for name, new in rows.items():
                if new:
                    connection.execute(insert(tables.tables[name]), new)
            added += len(rows["runs"])
    engine.dispose()
    return added


@contextmanager
def sqlite(copies: Copies, runs: int) -> Iterator[tuple[dict[str, str], int]]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Workspace(home=folder))
        yield {"EMAN_HOME": folder}, fill(store.uri, store, copies, runs)


@contextmanager
def server(copies: Copies, runs: int) -> Iterator[tuple[dict[str, str], int]]:
    with tempfile.TemporaryDirectory() as folder, run_postgres() as postgres:
        database = create_database(postgres)
        mlflow = Server(Path(folder), database)
        mlflow.start()
        try:
            store = Store(Workspace(home=folder, store=mlflow.uri))
            count = fill(database, store, copies, runs)
            yield {"EMAN_HOME": folder, "MLFLOW_TRACKING_URI": mlflow.uri}, count
        finally:
            mlflow.stop()


def queries(environment: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Return what a running sweep, and a process that watches it, ask the store repeatedly."""
    os.environ.update(environment)
    workspace, sweep = Workspace.from_environment(), plan(SweepRequest(tables=("table1", "table8")))
    store = Store(workspace)
    return {
        "reading the sweep's runs": lambda: Results.read(store, sweep.tables),
        "finding lost runs": store.settle_lost,
    }


def timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    call()
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        call()
    return (time.process_time() - cpu) / rounds, (time.perf_counter() - clock) / rounds


def measure(environment: dict[str, str], rounds: int, *, launch: bool) -> dict[str, tuple[float, float]]:
    """Return the processor seconds and the seconds by the clock of everything that is measured."""
    found = {}
    for command in COMMANDS:
        costs = [cost(environment, command) for _ in range(rounds)]
        found[f"eman {' '.join(command)}"] = (median(c.processor for c in costs), median(c.clock for c in costs))
    found |= {name: timed(call, rounds) for name, call in queries(environment).items()}
    if launch:
        costs = [cost(environment, (*SMALL, f"{seed},")) for seed in range(rounds)]
        found["a sweep of one short run"] = (median(c.processor for c in costs), median(c.clock for c in costs))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="number of other runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each")
    parser.add_argument("--sweep", type=Path, help="work folder of a real sweep whose rows to copy; default: run one")
    parser.add_argument("--no-launch", action="store_true", help="leave out sweeps, which start Ray")
    parser.add_argument("kinds", nargs="*", choices=["sqlite", "server", []], help="default: both")
    given = parser.parse_args()
    kinds = {"sqlite": sqlite, "server": server}
    with ExitStack() as stack:
        real = given.sweep
        if real is None:
            real = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            environment = {**os.environ, "EMAN_HOME": str(real)}
            command = [sys.executable, "-m", "eman", *REAL]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        copies = Copies(real)
        for kind in given.kinds or kinds:
            found = []
            for runs in (0, given.runs):
                with kinds[kind](copies, runs) as (environment, count):
                    found.append((count, measure(environment, given.rounds, launch=not given.no_launch)))
            (few, before), (many, after) = found
            print(f"{kind:38} {few:,} runs: CPU, clock    {many:,} runs: CPU, clock    ratio of the clock")
            for name, (cpu, clock) in after.items():
                print(
                    f"{name:38.38} {before[name][0]:10.2f} s {before[name][1]:7.2f} s {cpu:14.2f} s {clock:7.2f} s "
                    f"{clock / before[name][1]:12.2f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
