"""Launching: runs what a sweep lacks on Ray with Ray Tune, survives what happens meanwhile, and fills its tables."""

import contextlib
import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eman.evaluation.protocols.registry import group_title, protocol_named, together
from eman.evaluation.results import tables
from eman.evaluation.results.figures import draw
from eman.evaluation.results.tables import Results
from eman.evaluation.trained import Trained
from eman.platform.cluster import DRIVER_RESOURCES, Resources, cluster
from eman.platform.errors import UserError
from eman.platform.store.store import EVALUATION, SWEEP, TRAINING, RunLog, Store, new_id
from eman.sweeps.checks import check_data
from eman.sweeps.plan import Sweep
from eman.sweeps.run import trial
from eman.sweeps.run.tuning import tune_over
from eman.sweeps.tables import figure3
from eman.sweeps.view import ui
from eman.sweeps.view.live import Board
from eman.sweeps.view.progress import Progress
from eman.sweeps.work import evaluation_work, work
from eman.trainers.methods.registry import method_named, scheme_of
from eman.trainers.spec.run import EvalSpec, RunSpec

#: How often a launch goes over what is still missing, after processes or nodes were lost.
ROUNDS = 20

#: Seconds between two looks at runs that another launch is at.
_WAIT_SECONDS = 5.0

#: Seconds between two looks at what a launch does not hear of by itself.
_LOOK_SECONDS = 5.0

log = logging.getLogger("eman")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep is carried out. None of it changes a result.

    Attributes:
        workers: Workers of each training: a number, the fewest and the most, ``"auto"`` for as many as the cluster has
            CPUs and the devices can be divided by, or ``None``: as the profile says, else one.
        cpus, gpus: CPUs and GPUs of each worker; fractions let several runs share one. ``None``: one CPU, and one GPU
            where there are any.
        retries: How often a run that failed is tried again.
        address: A running Ray cluster; ``None``: one of this machine's cores.
        wait: Seconds to wait for a cluster that grows to have room for one run.
    """

    workers: trial.Workers | None = None
    cpus: float | None = None
    gpus: float | None = None
    retries: int = 1
    address: str | None = None
    wait: float = 0.0


@dataclass
class Report:
    """What a launch did.

    Attributes:
        trained, evaluated: Runs that were carried out.
        reused: Trainings that were there already.
        failed: Names of runs that gave no number, with the reason.
        seconds: Wall time.
        training_seconds: Seconds spent in training loops, over all workers.
        cores: Cores of the cluster; 0 if nothing had to run.
        interrupted: Whether it was stopped before its end.
    """

    trained: int = 0
    evaluated: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    training_seconds: float = 0.0
    cores: float = 0.0
    interrupted: bool = False

    @property
    def efficiency(self) -> float:
        """Training seconds over wall seconds times cores."""
        return self.training_seconds / (self.seconds * self.cores) if self.seconds and self.cores else 0.0

    def lines(self) -> list[str]:
        """For a person."""
        out = [
            f"{self.trained} trained, {self.reused} reused, {self.evaluated} evaluations, "
            f"{len(self.failed)} failed, {self.seconds:.0f} s"
        ]
        if self.efficiency:
            out.append(
                f"sweep efficiency {self.efficiency:.2f} ({self.training_seconds:.0f} s of training / "
                f"({self.seconds:.0f} s x {self.cores:.0f} cores))"
            )
        return out + [f"failed: {line}" for line in self.failed]


class _Launch:
    """One launch of a sweep on a cluster."""

    def __init__(self, board: Board, store: Store, options: Options, progress: Progress, report: Report) -> None:
        self.board, self.sweep, self.store, self.options = board, board.sweep, store, options
        self.progress, self.report = progress, report
        self.silent: set[str] = set()  # trainings that report to this process only when they end
        self.gone: dict[str, str] = {}  # trainings that are done and whose folder is gone, and who has done them
        self.key = new_id()
        self.left, self.open = ROUNDS, len(self.sweep.trainings) + len(self.sweep.evaluations)  # rounds, runs
        self.leaking = False

    def run(self, parent: RunLog, resources: Resources) -> bool:
        """Goes over what is missing until nothing is, or nothing more can be done.

        Returns:
            Whether that is so. If not, the cluster has to be joined anew: a Ray Train controller that dies while its
            workers start leaves their placement group behind, whose CPUs are free again when the job that made it ends.
        """
        self.parent, self.resources, self.leaking = parent, resources, False
        fewest = self.open
        while self.left:
            self.store.deliver()
            trainings, evaluations = self._todo()
            self.left = ROUNDS if self.open < fewest else self.left - 1
            fewest = min(fewest, self.open)
            if trainings:
                self._train(trainings)
                self.store.deliver()
                trainings, evaluations = self._todo()
            if self.leaking:
                return False
            if trainings:
                continue  # those that start from the ones just done, and those that were lost
            if evaluations:
                self._evaluate(evaluations)
            if not any(self._todo()) and not self._wait_for_others():
                break
        return True

    def _todo(self) -> tuple[list[RunSpec], list[EvalSpec]]:
        """Trainings to carry out now, and evaluations whose training is done."""
        results = Results.read(self.store)
        trainings, evaluations = self.sweep.missing(results, self.options.retries)
        self.open = len(trainings) + len(evaluations)
        self.board.read(results)
        self.board.wait_for(spec.key for spec in trainings)
        ready = [s for s in evaluations if results.done(s.run)]
        # An evaluation needs its run's networks, and so does a run that starts from them; a run whose folder is gone is
        # trained again.
        starts = [spec.init.key for spec in trainings if spec.init and results.done(spec.init.key)]
        workspace = self.store.workspace
        gone = {s.run for s in ready if not Trained(s.run, workspace, s.network, s.selection).available}
        gone |= {key for key in starts if not Trained(key, workspace).available}
        self.gone = {key: results.trainings[key].tags.get("eman.owner", "") for key in gone}
        trainings += [self.sweep.trainings[key] for key in sorted(self.gone)]
        can = [s for s in trainings if not s.init or (results.done(s.init.key) and s.init.key not in self.gone)]
        return can, [s for s in ready if s.run not in self.gone]

    def _wait_for_others(self) -> bool:
        """Waits while other launches are at runs of this sweep; returns whether there were any."""
        waited = False
        while self.sweep.running(Results.read(self.store)):
            if not waited:
                self.progress.say("waiting for runs that another launch is at")
            waited = True
            time.sleep(_WAIT_SECONDS)
            self.store.deliver()
        return waited

    def _train(self, specs: Sequence[RunSpec]) -> None:
        """Trains the runs of several workers one after the other, then all others side by side, the long ones first."""
        self.progress.start("training", {self.sweep.titles[spec.key]: work(spec) for spec in specs})
        workers = {spec.key: _workers(spec, self.sweep, self.options, self.resources) for spec in specs}
        self.silent = {key for key, number in workers.items() if number != 1}
        per_worker = _per_worker(self.options, self.resources)
        for number in sorted(set(workers.values()), key=_most, reverse=True):
            runs = [
                trial.training_config(
                    s,
                    self.store,
                    profile=self.sweep.profile.name,
                    parent=self.parent.run_id,
                    workers=number,
                    launch=self.key,
                    again=self.gone.get(s.key, ""),
                    title=self.sweep.titles[s.key],
                )
                | {"resources": per_worker}
                for s in sorted(specs, key=work, reverse=True)
                if workers[s.key] == number
            ]
            room = self._side_by_side({name: _most(number) * need for name, need in per_worker.items()})
            trainable, tasks, each = trial.train_trial, [[run] for run in runs], per_worker
            if number != 1:  # as many groups of workers as there is room for, each with its part of the runs
                trainable, each = trial.train_on_workers_trial, DRIVER_RESOURCES
                tasks = [runs[first::room] for first in range(min(room, len(runs)))]
            tune_over(
                self.store.workspace.ray_folder, trainable, tasks, each, room, self.progress, self._trained, self._lost
            )

    def look(self) -> None:
        """Reads from the store how far those trainings are that are silent; only somebody who watches wants to know."""
        for key in self.silent if self.progress.watched else ():
            if self.board.states[key] == "running":
                for record in self.store.records(TRAINING, key):
                    self.board.advance(key, float(record.tags.get("eman.share", 0)), record.metrics)

    def _side_by_side(self, each: Mapping[str, float]) -> int:
        """How many trials the cluster can hold at once."""
        has = {"CPU": self.resources.cpus, "GPU": self.resources.gpus}
        return max(1, min(int(has[name] / need + 1e-6) for name, need in each.items() if need))

    def _trained(self, config: trial.Config, outcome: dict[str, Any]) -> None:
        if outcome["status"] == "done":
            self.report.trained += 1
            self.report.training_seconds += outcome["seconds"] * _most(config["workers"])

    def _evaluate(self, specs: Sequence[EvalSpec]) -> None:
        """Evaluations in groups; the result that tables print also goes to the training's own run."""
        results = Results.read(self.store)
        groups = {f"{self.sweep.titles[g[0].run]} · {group_title(g)}": g for g in together(specs)}
        costs = {title: evaluation_work(group, self.sweep.trainings[group[0].run]) for title, group in groups.items()}
        self.progress.start("evaluation", costs, lines=12)
        tasks: list[list[trial.Config]] = []
        for label, group in sorted(groups.items(), key=lambda item: -costs[item[0]]):
            run = self.sweep.trainings[group[0].run]
            tags = {"profile": self.sweep.profile.name, "method": method_named(run.method).title}
            task = {
                "specs": [spec.fields() for spec in group],
                "workspace": self.store.workspace,
                "parent": results.trainings[run.key].run_id,
                "launch": self.key,
                "title": self.sweep.titles[run.key],
                "label": label,
                "tags": tags | {"scheme": scheme_of(run).title},
            }
            tasks.append([task])
        each = {"CPU": 1.0}
        tune_over(
            self.store.workspace.ray_folder,
            trial.evaluate_trial,
            tasks,
            each,
            self._side_by_side(each),
            self.progress,
            self._evaluated,
            self._lost,
        )
        done = Results.read(self.store)
        fresh = {spec.key for spec in specs}
        for item in dict.fromkeys(self.sweep.wanted):
            if fresh.isdisjoint(spec.key for spec in item.evaluations):
                continue
            if any((s.network, s.selection, s.dataset) != ("student", "last", None) for s in item.evaluations):
                continue  # their numbers bear the same names; they stand on the evaluations' runs
            value, status, _ = done.one(item)
            if status == "done" and value is not None:
                record, epochs, best = done.trainings[item.run.key], item.run.epochs, done.chosen(item)
                metrics = {item.metric: value}
                grid = protocol_named(item.evaluations[0].protocol).grid
                if grid and best is not None:  # linear/10pct_lr: the rate that the held-out images chose
                    name = item.select_by.replace("held_out_top1", grid)
                    metrics[name] = float(best.params[grid])
                RunLog(self.store, record.run_id, epochs).write(metrics, epochs)

    def _evaluated(self, config: trial.Config, outcome: dict[str, Any]) -> None:
        outcomes = outcome.get("outcomes", {})
        self.report.evaluated += sum(found["status"] == "done" for found in outcomes.values())

    def _lost(self, config: trial.Config, reason: str) -> dict[str, Any]:
        """The outcome of a task whose process is gone."""
        if "specs" not in config:
            self.leaking |= config["workers"] != 1
            return trial.lost(TRAINING, RunSpec.from_fields(config["spec"]).key, config, reason)
        keys = [EvalSpec.from_fields(fields).key for fields in config["specs"]]
        outcomes = [trial.lost(EVALUATION, key, config, reason) for key in keys]
        return outcomes[0]


@contextlib.contextmanager
def _beside(launch: _Launch, run_id: str) -> Iterator[None]:
    """Meanwhile, says in the store every few seconds that the sweep is alive, and looks after its silent trainings."""
    ended, beats = threading.Event(), RunLog(launch.store, run_id, 0)

    def go_on() -> None:
        while not ended.wait(_LOOK_SECONDS):
            try:
                beats.beat()
                launch.look()
            except Exception as error:  # a store that is away: whoever needs it will say so, and wait
                log.warning("the sweep could not be looked after for a while: %s", error)

    thread = threading.Thread(target=go_on, name="eman-beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def run_sweep(
    sweep: Sweep, store: Store, *, options: Options | None = None, progress: Progress | None = None
) -> Report:
    """Runs what the store lacks of a sweep, then stores the sweep's tables on its parent run.

    Args:
        sweep: The sweep.
        store: Where results are and go.
        options: How to carry it out.
        progress: Shows how far it is.

    Raises:
        UserError: The data, the cluster or the number of workers does not do.
    """
    started = time.monotonic()
    options, progress = options or Options(), progress or Progress(quiet=True)
    for spec in sweep.trainings.values():
        trial.check_workers(options.workers, spec.devices)
    store.deliver()
    board, results = Board(sweep, time.time()), Results.read(store)
    trainings, evaluations = sweep.missing(results, options.retries)
    report = Report(reused=len(sweep.trainings) - len(trainings))
    if trainings or evaluations:
        check_data(trainings, store.workspace, ((spec, sweep.trainings[spec.run]) for spec in evaluations))
        parent = store.begin(
            SWEEP,
            sweep.key,
            f"{sweep.name} · {sweep.profile.name}",
            params={},
            tags={
                "profile": sweep.profile.name,
                "mlflow.note.content": f"eman sweep {sweep.name}",
                "eman.request": sweep.request.model_dump_json(),
                "eman.launched": f"{board.launched:.3f}",
            },
        )
        board.read(results)
        progress.follow(board)
        launch, through = _Launch(board, store, options, progress, report), False
        while not through:
            with cluster(options.address) as found, _beside(launch, parent.run_id):
                resources = _room(options, found)
                report.cores = resources.cpus
                try:
                    through = launch.run(parent, resources)
                except KeyboardInterrupt:
                    through = report.interrupted = True
                    for record in store.records():
                        if record.status == "running" and record.tags.get("eman.launch") == launch.key:
                            RunLog(store, record.run_id, 0).interrupt()
        report.seconds = time.monotonic() - started
        store.deliver()
        _finish(sweep, store, parent, report)
    report.seconds = time.monotonic() - started
    return report


def _workers(spec: RunSpec, sweep: Sweep, options: Options, resources: Resources) -> trial.Workers:
    if isinstance(options.workers, int | tuple):
        return options.workers
    most = max(1, math.floor(resources.cpus / (options.cpus or 1.0)))
    wanted = most
    if options.workers is None:
        wanted = 1
        for (method, scheme), count in sweep.profile.workers.items():
            if spec.method == method and scheme_of(spec) == scheme_of(sweep.profile.run(method, scheme)):
                wanted = count
    return trial.divisor(spec.devices, min(wanted, most))


def _most(workers: trial.Workers) -> int:
    return workers[1] if isinstance(workers, tuple) else int(workers)


def _per_worker(options: Options, resources: Resources) -> dict[str, float]:
    gpus = options.gpus if options.gpus is not None else float(resources.gpus > 0)
    return {"CPU": 1.0 if options.cpus is None else options.cpus} | ({"GPU": gpus} if gpus else {})


def _room(options: Options, resources: Resources) -> Resources:
    """Waits until one run fits the cluster, for at most ``options.wait`` seconds.

    Raises:
        UserError: It does not.
    """
    least = options.workers[0] if isinstance(options.workers, tuple) else options.workers
    workers = least if isinstance(least, int) else 1
    deadline = time.monotonic() + options.wait
    while True:
        needs = {name: workers * need for name, need in _per_worker(options, resources).items()}
        if needs.get("CPU", 0) <= resources.cpus and needs.get("GPU", 0) <= resources.gpus:
            return resources
        if time.monotonic() >= deadline:
            asked = ", ".join(f"{value:g} {name}" for name, value in needs.items())
            waited = f" after {options.wait:.0f} s" if options.wait else ""
            raise UserError(
                f"one run needs {asked} ({workers} workers), and the cluster has {resources.cpus:g} CPU, "
                f"{resources.gpus:g} GPU{waited}; give fewer --workers, less --cpus or --gpus, a larger cluster with "
                f"--address, or --wait SECONDS for one that grows."
            )
        time.sleep(2.0)
        resources = resources.now()


def _finish(sweep: Sweep, store: Store, parent: RunLog, report: Report) -> None:
    """Stores tables and figures of merit on the sweep's run, and lists what failed."""
    results = Results.read(store)
    for key, spec in sweep.trainings.items():
        status, reason = results.state(spec)
        if status == "failed":
            report.failed.append(f"{sweep.titles[key]}: {reason}")
    known = results.evaluations
    report.failed += [
        f"{known[k].name}: {known[k].reason}" for k in sweep.evaluations if k in known and known[k].status == "failed"
    ]
    found = [(table, tables.values(table, results)) for table in sweep.tables]
    shown = [tables.markdown(table, values) for table, values in found]
    artifacts = {f"table{table.number}.md": text for table, text in zip(sweep.tables, shown, strict=True)}
    artifacts["tables.csv"] = tables.render(found, "csv")
    # An MLflow table, written whole: `log_table` would append to the one of an earlier, interrupted launch.
    artifacts["tables.json"] = tables.frame(found).to_json(orient="split", index=False)
    for name, text in artifacts.items():
        store.patiently(partial(store.client.log_text, parent.run_id, text, name))
    if any(table.number == 1 for table in sweep.tables):
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UserError):  # nothing to draw yet
            picture = Path(folder) / "figure3.png"
            draw(figure3.lines(sweep.scope), store, picture, figure3.caption(sweep.scope))
            store.patiently(partial(store.client.log_artifact, parent.run_id, str(picture)))
    metrics = {
        "sweep/seconds": report.seconds,
        "sweep/trained": report.trained,
        "sweep/failed": len(report.failed),
        "sweep/efficiency": report.efficiency,
    }
    logged = json.dumps([{"path": "tables.json", "type": "table"}])
    described = {"mlflow.loggedArtifacts": logged, **ui.describe(sweep, store, shown)}
    parent.write(metrics, tags=described, status="KILLED" if report.interrupted else "FINISHED")
