"""Launching: runs what a sweep lacks on Ray with Ray Tune, and fills its tables."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eman.evaluation import features, tables
from eman.evaluation.tables import Results
from eman.platform.cluster import TRIAL_SLOT, Resources, cluster
from eman.platform.errors import UserError
from eman.platform.home import home_folder, run_folder
from eman.platform.spec import EvalSpec, RunSpec
from eman.platform.tracking import SWEEP, TRAINING, RunLog, Store, new_id
from eman.sweeps import trial
from eman.sweeps.progress import Progress
from eman.sweeps.sweep import Sweep, check_data, work
from eman.trainers.methods import method_named, run_title, scheme_of

OnDone = Callable[[trial.Config, dict[str, Any]], None]


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

    def lines(self) -> list[str]:
        """For a person."""
        out = [
            f"{self.trained} trained, {self.reused} reused, {self.evaluated} evaluations, {len(self.failed)} failed, "
            f"{self.seconds:.0f} s"
        ]
        if self.training_seconds and self.cores:
            share = self.training_seconds / (self.seconds * self.cores)
            out.append(
                f"sweep efficiency {share:.2f} ({self.training_seconds:.0f} s of training / "
                f"({self.seconds:.0f} s x {self.cores:.0f} cores))"
            )
        return out + [f"failed: {line}" for line in self.failed]


def run_sweep(
    sweep: Sweep,
    store: Store,
    *,
    workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Runs what the store lacks of a sweep, then stores the sweep's tables on its parent run.

    Args:
        sweep: The sweep.
        store: Where results are and go.
        workers: Workers of each training; ``None``: as the profile says, else one.
        address: A running Ray cluster; ``None``: one of this machine's cores.
        progress: Shows how far it is.

    Raises:
        UserError: The data, the cluster or the number of workers does not do.
    """
    started = time.monotonic()
    progress = progress or Progress(quiet=True)
    results = Results.read(store)
    trainings, evaluations = sweep.missing(results)
    # An evaluation needs its run's features; a run whose folder is gone is trained again.
    needed = {spec.run for spec in evaluations} - {spec.key for spec in trainings}
    trainings += [
        sweep.trainings[key] for key in sorted(needed) if not features.path(run_folder(key), "student", "last").exists()
    ]
    report = Report(reused=len(sweep.trainings) - len(trainings))
    if not trainings and not evaluations:
        report.seconds = time.monotonic() - started
        return report
    check_data(sweep.profile)
    plan = {spec.key: _workers(spec, sweep, workers) for spec in trainings}
    parent = store.begin(
        SWEEP,
        sweep.key,
        f"{sweep.name} · {sweep.profile.name}",
        params={},
        tags={"profile": sweep.profile.name, "mlflow.note.content": f"eman sweep {sweep.name}"},
    )
    with cluster(address) as resources:
        report.cores = resources.cpus
        _check_room(max(plan.values(), default=1), resources)
        try:
            _train(sweep, trainings, plan, store, parent, report, progress, resources)
            done = Results.read(store)
            todo = [
                spec
                for spec in sweep.missing(done)[1]
                if spec.run in done.trainings and done.trainings[spec.run].status == "done"
            ]
            _evaluate(sweep, todo, done, store, report, progress, resources)
        except KeyboardInterrupt:
            report.interrupted = True
            _mark_interrupted(store, sweep)
    report.seconds = time.monotonic() - started
    _finish(sweep, store, parent, report)
    return report


def _workers(spec: RunSpec, sweep: Sweep, workers: int | None) -> int:
    if workers is None:
        chosen = {
            sweep.profile.run(method, scheme, spec.seed).key: count
            for (method, scheme), count in sweep.profile.workers.items()
        }
        workers = chosen.get(spec.key, 1)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(workers, cores)
    if workers < 1 or spec.devices % workers:
        raise UserError(
            f"--workers {workers} does not divide the {spec.devices} devices of {run_title(spec)}; give a "
            f"divisor of {spec.devices}."
        )
    return workers


def _check_room(workers: int, resources: Resources) -> None:
    if workers > resources.cpus:
        raise UserError(
            f"a run needs {workers} CPUs, one a worker, and the cluster has {resources.cpus:g}; give "
            f"--workers {int(resources.cpus)} or fewer, or a larger cluster with --address."
        )


def _train(
    sweep: Sweep,
    specs: Sequence[RunSpec],
    plan: dict[str, int],
    store: Store,
    parent: RunLog,
    report: Report,
    progress: Progress,
    resources: Resources,
) -> None:
    """Trains the runs of several workers one after the other, then all others side by side, the long ones first."""
    progress.start("training", {run_title(spec): work(spec) for spec in specs})

    def on_done(config: trial.Config, outcome: dict[str, Any]) -> None:
        report.trained += 1
        report.training_seconds += outcome["seconds"] * config["workers"]
        if outcome["status"] == "failed":
            report.failed.append(f"{run_title(RunSpec.from_fields(config['spec']))}: {outcome['reason']}")

    for several in (True, False):
        chosen = sorted((s for s in specs if (plan[s.key] > 1) == several), key=work, reverse=True)
        tasks = [
            trial.training_config(s, store, profile=sweep.profile.name, parent=parent.run_id, workers=plan[s.key])
            | {"title": run_title(s), "attempt": new_id()}
            for s in chosen
        ]
        resource: dict[str, float] = {"CPU": 0, TRIAL_SLOT: 1} if several else {"CPU": 1}
        _tune(
            trial.train_trial,
            tasks,
            resource,
            f"train-{parent.run_id}",
            on_done,
            progress,
            concurrent=1 if several else int(resources.cpus),
        )


def _evaluate(
    sweep: Sweep,
    specs: Sequence[EvalSpec],
    results: Results,
    store: Store,
    report: Report,
    progress: Progress,
    resources: Resources,
) -> None:
    """Learning-rate grids on cached features; the chosen rate's result also goes to the training's own run."""
    titles = {key: run_title(spec) for key, spec in sweep.trainings.items()}
    progress.start("evaluation", {f"{titles[s.run]} · lr {s.lr:g}": 1.0 for s in specs}, lines=6)

    def on_done(config: trial.Config, outcome: dict[str, Any]) -> None:
        report.evaluated += 1
        if outcome["status"] == "failed":
            report.failed.append(f"{config['title']} · lr {config['spec']['lr']:g}: {outcome['reason']}")

    tasks: list[trial.Config] = [
        {
            "spec": s.fields(),
            "store": store.uri,
            "parent": results.trainings[s.run].run_id,
            "title": titles[s.run],
            "tags": {
                "profile": sweep.profile.name,
                "method": method_named(sweep.trainings[s.run].method).title,
                "scheme": scheme_of(sweep.trainings[s.run]).title,
            },
        }
        for s in sorted(specs, key=lambda s: (s.run, s.lr))
    ]
    for task in tasks:
        task["label"] = f"{task['title']} · lr {task['spec']['lr']:g}"
    _tune(
        trial.evaluate_trial,
        tasks,
        {"CPU": 1},
        f"evaluate-{new_id()}",
        on_done,
        progress,
        concurrent=int(resources.cpus),
    )
    evaluated = Results.read(store)
    for item in {wanted.run.key: wanted for wanted in sweep.wanted if wanted.evaluations}.values():
        value, status, _ = evaluated.one(item)
        if status == "done" and value is not None and item.run.key in {s.run for s in specs}:
            record = evaluated.trainings[item.run.key]
            RunLog(store, record.run_id, item.run.epochs).write({item.metric: value}, item.run.epochs)


def _tune(
    trainable: Callable[[trial.Config], None],
    tasks: Sequence[trial.Config],
    resources: Mapping[str, float],
    name: str,
    on_done: OnDone,
    progress: Progress,
    *,
    concurrent: int,
) -> None:
    """Ray Tune over a list of tasks, the actors of finished trials taking the next ones."""
    if not tasks:
        return
    from ray import tune

    class Watch(tune.Callback):
        """Hands what trials report to the progress display. Tune pickles its callbacks; this one travels empty."""

        def __init__(self, progress: Progress, on_done: OnDone) -> None:
            self.progress, self.on_done = progress, on_done

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            task = trial.config["task"]
            self.progress.advance(task.get("label", task["title"]), result["share"], result)
            if "status" in result:
                self.on_done(task, result)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            task = trial.config["task"]
            self.on_done(task, {"status": "failed", "reason": "its process ended; run the sweep again", "seconds": 0.0})

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: Tune would swallow it
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        param_space={"task": tune.grid_search(list(tasks))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=name, storage_path=str(home_folder() / "ray"), verbose=0, callbacks=[Watch(progress, on_done)]
        ),
    )
    tuner.fit()


def _mark_interrupted(store: Store, sweep: Sweep) -> None:
    for record in store.records(TRAINING):
        if record.status == "running" and record.key in sweep.trainings:
            store.client.set_terminated(record.run_id, "KILLED")


def _finish(sweep: Sweep, store: Store, parent: RunLog, report: Report) -> None:
    """Stores tables and figures of merit on the sweep's run."""
    results = Results.read(store)
    found = [(table, tables.values(table, results)) for table in sweep.tables]
    for table, values in found:
        store.client.log_text(parent.run_id, tables.markdown(table, values), f"table{table.number}.md")
    store.client.log_text(parent.run_id, tables.render(found, "csv"), "tables.csv")
    # An MLflow table, written whole: `log_table` would append to the one of an earlier, interrupted launch.
    store.client.log_text(parent.run_id, tables.frame(found).to_json(orient="split", index=False), "tables.json")
    parent.tag({"mlflow.loggedArtifacts": json.dumps([{"path": "tables.json", "type": "table"}])})
    metrics = {"sweep/seconds": report.seconds, "sweep/trained": report.trained, "sweep/failed": len(report.failed)}
    if report.training_seconds and report.cores:
        metrics["sweep/efficiency"] = report.training_seconds / (report.seconds * report.cores)
    parent.write(metrics)
    store.client.set_terminated(parent.run_id, "KILLED" if report.interrupted else "FINISHED")
