"""Part `small`: many small runs side by side on one card, and the time of Tables 1 and 8 extrapolated from them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from eman.platform.workspace import Workspace
from eman.sweeps import work
from eman.sweeps.profiles.mini import MINI
from eman.sweeps.tables import table1, table8
from eman.sweeps.tables.scope import Scope
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training
from gpu_parts.fast import images_of, training_of
from gpu_parts.jobs import spawn
from gpu_parts.report import Report, last_lines
from gpu_parts.timing import on_gpu, step_seconds, summary, synchronize

#: Numbers of runs side by side.
SIDE_BY_SIDE = (1, 4, 8, 16)

#: Steps between looks at the clock.
_CHUNK = 10

SEEDS = (0, 1, 2)

_TINY: dict[str, Any] = {"precision": "float32", "devices": 4, "statistics_passes": 0}
_TINY_OWN: dict[str, dict[str, Any]] = {
    "moco": {"batch": 16, "queue": 64},
    "byol": {"batch": 16},
    "fixmatch": {"batch": 16, "labelled_batch": 8},
}


def spec_of(method: str, *, dry: bool, **fields: Any) -> RunSpec:
    """Return profile `mini`'s run with EMAN, on generated images of the same number and size."""
    tiny = {**_TINY, **_TINY_OWN[method]} if dry else {}
    return MINI.run(method, "eman", overrides={"dataset": "synthetic-gray", **tiny, **fields})


def trainings_of_tables() -> list[RunSpec]:
    """Return the distinct trainings of Tables 1 and 8 at profile `mini` with three seeds."""
    scope = Scope(profile=MINI, seeds=SEEDS)
    wanted = [one for table in (table1, table8) for cell in table.table(scope).cells for one in cell.wanted]
    return list({one.run.key: one.run for one in wanted}.values())


def _train_for(training: Training, seconds: float) -> tuple[int, float]:
    """Train for some seconds; return the steps and the exact time."""
    synchronize()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(_CHUNK):
            training.train_step()
        synchronize()
        steps += _CHUNK
    return steps, time.perf_counter() - started


def _worker(connection: Connection, home: str) -> None:
    """Do what the connection asks for: start a run, or train it for some seconds."""
    torch.set_num_threads(1)
    training: Training | None = None
    while (asked := connection.recv()) is not None:
        try:
            if isinstance(asked, float):
                assert training is not None
                answer: Any = _train_for(training, asked)
            else:
                training = Training.fresh(RunSpec.from_flat(asked), Workspace(home=Path(home)))
                for _ in range(5):
                    training.train_step()
                synchronize()
                answer = "ready"
        except Exception as error:
            answer = RuntimeError(last_lines(error))
        connection.send(answer)


class Processes:
    """Processes that each train a run when told to.

    Args:
        count: Number of processes.
        home: Work folder.
    """

    def __init__(self, count: int, home: Path) -> None:
        self.connections: list[Connection] = []
        self.processes = []
        for _ in range(count):
            ours, theirs = spawn().Pipe()
            process = spawn().Process(target=_worker, args=(theirs, str(home)), daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def ask(self, what: Any, count: int, patience: float) -> list[Any]:
        """Ask the first ``count`` processes at once, and return their answers.

        Raises:
            RuntimeError: A process reports an error, has ended, or does not answer in time.
        """
        chosen = self.connections[:count]
        for number, connection in enumerate(chosen):
            connection.send(what(number) if callable(what) else what)
        answers: dict[Connection, Any] = {}
        deadline = time.monotonic() + patience
        while len(answers) < count:
            ready = wait([c for c in chosen if c not in answers], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RuntimeError(f"{count - len(answers)} of {count} processes did not answer in {patience:.0f} s")
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    answers[connection] = connection.recv()
                except EOFError as error:
                    raise RuntimeError("a process ended") from error
        for answer in answers.values():
            if isinstance(answer, Exception):
                raise answer
        return [answers[connection] for connection in chosen]

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()


def measure(report: Report, home: Path, *, dry: bool) -> None:
    """Measure single steps, runs side by side in processes and on streams, and extrapolate the tables' time."""
    graph = {"cuda_graph": True} if on_gpu() else {}
    seconds, most = (0.1, 1) if dry else (3.0, max(SIDE_BY_SIDE))
    for method in ("moco",) if dry else ("moco", "byol", "fixmatch"):
        for name, fields in {"eager": {"cuda_graph": False}, **({"graph": graph} if graph else {})}.items():
            spec = partial(spec_of, method, dry=dry, **fields)
            report.attempt(f"{method}, one run, {name}", lambda spec=spec: _single(spec(), home, dry), needs=3)
    processes = Processes(most, home)
    try:
        _side_by_side(report, processes, graph, seconds, [n for n in SIDE_BY_SIDE if n <= most], dry)
    finally:
        processes.close()
    if not dry and on_gpu():
        for count in (4, 8, 16):
            name = f"moco, {count} streams of one process"
            report.attempt(name, lambda n=count: _streams(n, graph, home, seconds, dry), needs=6)
    _extrapolate(report)


def _single(spec: RunSpec, home: Path, dry: bool) -> dict[str, Any]:
    with training_of(spec, home) as training:
        started = time.perf_counter()
        training.train_step()
        synchronize()
        first = time.perf_counter() - started
        row = summary(step_seconds(training.train_step, 3 if dry else 100, warmup=1 if dry else 10, most=2.0))
        row |= {"first_step_s": round(first, 2), "images_per_s": round(1e3 * images_of(spec) / row["ms"], 1)}
        return row | {"last_loss": float(training.train_step()[0])}


def _side_by_side(
    report: Report, processes: Processes, graph: dict[str, Any], seconds: float, counts: Sequence[int], dry: bool
) -> None:
    """Measure one method with each number of processes, and the other methods with the best number."""
    kind = "graph" if graph else "eager"

    def rate(method: str, count: int, fresh: bool) -> dict[str, Any]:
        if fresh:
            spec = spec_of(method, dry=dry, **graph)
            specs = [spec.replace(seed=number).flat() for number in range(len(processes.connections))]
            processes.ask(lambda number: specs[number], len(specs), patience=60)
        answers = processes.ask(seconds, count, patience=seconds + 30)
        steps, images = sum(n for n, _ in answers), images_of(spec_of(method, dry=dry))
        total = sum(n * images / elapsed for n, elapsed in answers)
        return {"processes": count, "method": method, "mode": kind, "images_per_s": round(total, 1), "all_steps": steps}

    rates: dict[int, float] = {}
    for number, count in enumerate(counts):
        name = f"moco, {count} processes, {kind}"
        row = report.attempt(name, lambda c=count, f=number == 0: rate("moco", c, f), needs=seconds + 2)
        if row:
            rates[count] = row["images_per_s"]
    if not rates:
        return
    best = max(rates, key=lambda count: rates[count])
    for method in () if dry else ("byol", "fixmatch"):
        name = f"{method}, {best} processes, {kind}"
        report.attempt(name, lambda m=method: rate(m, best, True), needs=seconds + 8)


def _streams(count: int, graph: dict[str, Any], home: Path, seconds: float, dry: bool) -> dict[str, Any]:
    """Take steps of several runs in turns, each on a stream of its own."""
    spec = spec_of("moco", dry=dry, **graph)
    trainings, streams = [], [torch.cuda.Stream() for _ in range(count)]

    def on(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
        return nullcontext() if stream is None else torch.cuda.stream(stream)

    for number, stream in enumerate(streams):
        with on(stream):
            trainings.append(Training.fresh(spec.replace(seed=number), Workspace(home=home)))
            for _ in range(5):
                trainings[-1].train_step()
        synchronize()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(_CHUNK):
            for training, stream in zip(trainings, streams, strict=True):
                with on(stream):
                    training.train_step()
        synchronize()
        rounds += _CHUNK
    elapsed = time.perf_counter() - started
    for training in trainings:
        training.close()
    total = rounds * count * images_of(spec) / elapsed
    return {"streams": count, "method": "moco", "images_per_s": round(total, 1), "rounds": rounds}


def _extrapolate(report: Report) -> None:
    """Record the images of the tables' trainings, and the time that they would take."""
    trainings = trainings_of_tables()
    images: dict[str, int] = {}
    for spec in trainings:
        images[spec.method.name] = images.get(spec.method.name, 0) + work.steps(spec) * images_of(spec)
    row: dict[str, Any] = {"trainings": len(trainings), "images": images}
    found = minutes(images, report.found["rows"])
    if found is not None:
        row["minutes"] = round(found, 1)
    row["note"] = "extrapolated from EMAN's runs, training alone: without evaluations, checkpoints and start-up"
    report.add("Tables 1 and 8, mini, three seeds, extrapolated", row)


def minutes(images: Mapping[str, int], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the time for each method's images at its best rate in processes, as a sweep runs.

    ``None`` if a method was not measured.
    """
    seconds = 0.0
    for method, count in images.items():
        rates = [row["images_per_s"] for row in rows.values() if row.get("method") == method and "processes" in row]
        if not rates:
            return None
        seconds += count / max(rates)
    return seconds / 60
