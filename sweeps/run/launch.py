"""Launch a sweep: run on Ray what is missing in the store until nothing is."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from eman.evaluation.protocols.groups import together
from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results.values import Results
from eman.platform.cluster import DRIVER_RESOURCES, Resources
from eman.platform.store.records import EVALUATION, TRAINING, new_id
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.sweeps.grid import Point, corner_runs
from eman.sweeps.plan import with_point
from eman.sweeps.request import command
from eman.sweeps.run import trials
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Stopped, Waiting
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import Config, EvalJob, Job, JobT, TrainJob, Workers, max_workers
from eman.sweeps.run.listener import Comparison, Listener
from eman.sweeps.run.options import Options, Report, worker_resources, workers_of
from eman.sweeps.run.publish import publish_results
from eman.sweeps.run.state import SweepState
from eman.sweeps.run.todo import Todo, find_todo
from eman.sweeps.search.objective import mode_of, objective_of
from eman.sweeps.work import evaluation_work, work
from eman.trainers.spec.kinds import Value
from eman.trainers.spec.labels import scheme_colour, scheme_label
from eman.trainers.spec.run import RunSpec

#: The launch gives up after this many rounds without a new result.
ROUNDS = 20

#: Seconds between checks for runs of another launch.
_WAIT_SECONDS = 5.0


class Launch:
    """One launch of a sweep. Every event is applied to `state` and passed to `listen`."""

    def __init__(
        self,
        state: SweepState,
        store: Store,
        options: Options,
        interruption: Interruption,
        listen: Callable[[SweepState, Event], None],
    ) -> None:
        self.state, self.sweep, self.store, self.options = state, state.sweep, store, options
        self.key = new_id()
        self.report = Report()
        self._interruption, self._listen = interruption, listen
        self._failures = Counter[str]()  # in this launch
        self._rounds = ROUNDS
        self._fewest_open = len(state.runs) + 1
        self._jobs: dict[str, Job] = {}
        self._lost_workers = False
        self._searched: set[str] = set()  # methods whose points Optuna has chosen in this launch

    def emit(self, event: Event) -> None:
        """Apply an event to the state and pass it to the listener."""
        self.state.apply(event)
        if isinstance(event, Failed):
            self._failures[event.key] += 1
        elif isinstance(event, Done):
            job = self._jobs.get(event.key)
            if isinstance(job, TrainJob):
                self.report.trained += 1
                self.report.training_seconds += event.seconds * max_workers(job.workers)
            else:
                self.report.evaluated += 1
        self._listen(self.state, event)

    @property
    def has_points_to_choose(self) -> bool:
        """Whether Optuna is still to choose points."""
        request = self.sweep.request
        points = sum(len(chosen) for chosen in request.points.values())
        pairs = len(dict.fromkeys(request.methods)) * len(dict.fromkeys(request.schemes))
        return request.search == "optuna" and points < pairs * request.samples

    def todo(self) -> Todo:
        """Read the store and return what is left to do."""
        results = Results.read(self.store, self.sweep.tables)
        for event in self.state.changes(results):
            self.state.apply(event)
        todo = find_todo(self.sweep, results, self._failures, self.options.retries, self.store.workspace)
        for key in [*(spec.key for spec in todo.trainings), *(spec.key for spec in todo.evaluations)]:
            self.state.apply(Lost(key))  # failed earlier, or its files are gone
        return todo

    def carry_out(self, parent: str, resources: Resources) -> bool:
        """Run what is missing until nothing is, or nothing more can be done.

        Returns:
            Whether the launch is complete. If not, rejoin the cluster and call this again: a Ray Train controller that
            dies while its workers start leaks their placement group, whose CPUs are released only when this Ray job
            ends.
        """
        self._lost_workers = False
        while self._rounds:
            self.store.deliver()
            todo = self.todo()
            self._rounds = ROUNDS if todo.open < self._fewest_open else self._rounds - 1
            self._fewest_open = min(self._fewest_open, todo.open)
            if todo.trainings:
                self._train(todo, parent, resources)
                if self._lost_workers:
                    return False
            elif self._run_chosen_points(parent, resources):
                self._rounds = ROUNDS
            elif todo.evaluations:
                self._evaluate(todo.evaluations, parent, resources)
            elif not self._wait_for_others():
                break
        return True

    def release(self) -> None:
        """Mark this launch's unfinished runs as interrupted, so that the next launch can resume them at once."""
        for record in self.store.records(status="RUNNING"):
            if record.launch == self.key:
                RunLog(self.store, record.run_id).interrupt()

    def _wait_for_others(self) -> bool:
        """Wait while other launches run parts of this sweep; return whether any did."""
        waited = False
        while self._runs_elsewhere():
            if not waited:
                self.emit(Waiting("waiting for runs of another launch"))
            waited = True
            time.sleep(_WAIT_SECONDS)
            self.store.deliver()
        return waited

    def _runs_elsewhere(self) -> bool:
        results = Results.read(self.store, self.sweep.tables)
        return any(
            record.status == "running" for record in (*results.trainings.values(), *results.evaluations.values())
        )

    def _train(self, todo: Todo, parent: str, resources: Resources) -> None:
        """Train runs with many workers first, then those with fewer; among equals, the longest first.

        A scheduler compares runs of one method only: others have another objective, or other lengths.
        """
        scheduled = self.sweep.request.scheduler != "none"
        jobs = [
            replace(self._job(spec, parent, resources), previous_owner=todo.previous_owners.get(spec.key, ""))
            for spec in sorted(todo.trainings, key=work, reverse=True)
        ]
        batches = defaultdict[tuple[Workers, str], list[TrainJob]](list)
        for job in jobs:
            batches[job.workers, job.spec.method.name if scheduled else ""].append(job)
        for (workers, _), batch in sorted(batches.items(), key=lambda item: max_workers(item[0][0]), reverse=True):
            self._run(*self._trainable(workers, resources), batch)

    def _job(self, spec: RunSpec, parent: str, resources: Resources) -> TrainJob:
        return TrainJob(
            spec=spec,
            title=self.sweep.titles[spec.key],
            profile=self.sweep.profile.name,
            workspace=self.store.workspace,
            launch=self.key,
            parent=parent,
            sweep=parent,
            command=command(self.sweep.request),
            workers=workers_of(spec, self.sweep, self.options, resources),
            resources=worker_resources(self.options, resources),
            varying=self.sweep.varying,
            stoppable=self.sweep.request.scheduler != "none",
        )

    def _run_chosen_points(self, parent: str, resources: Resources) -> bool:
        """Run the points that Optuna chooses for one method; return whether there was a method to choose for."""
        request = self.sweep.request
        methods = [method for method in dict.fromkeys(request.methods) if method not in self._searched]
        if request.search != "optuna" or not methods:
            return False
        from eman.sweeps.run.searcher import OptunaSearcher, spaces_of
        from eman.sweeps.run.tuning import run_suggested_jobs

        method = methods[0]
        self._searched.add(method)
        jobs = self._jobs = dict[str, Job]()

        def make(scheme: str, fields: Mapping[str, Value]) -> tuple[Point, list[TrainJob]]:
            sweep, point = with_point(self.sweep, method, scheme, fields)
            self.sweep = sweep
            self.state.extend(sweep)
            RunLog(self.store, parent).tag({"eman.request": sweep.request.model_dump_json()})
            made = [replace(self._job(run, parent, resources), workers=workers) for run in point.runs]
            jobs.update({job.spec.key: job for job in made})
            return point, made

        workers = self.options.workers if isinstance(self.options.workers, int | tuple) else 1
        trainable, needs, concurrent = self._trainable(workers, resources)
        spaces = spaces_of(self.sweep, method, Results.read(self.store, self.sweep.tables))
        corners = [run for run in corner_runs(request, self.sweep.scope) if run.method.name == method]
        comparison = self._comparison(corners)
        left = sum(space.left for space in spaces) * len(request.seeds)
        if left:
            searcher = OptunaSearcher(comparison.objective, comparison.mode, spaces, make)
            listener = Listener(self._interruption, self.emit, self._resolve_lost, self._resolve_stopped)
            table = run_suggested_jobs(
                trainable,
                jobs,
                searcher,
                left,
                resources=needs,
                concurrent=concurrent,
                workspace=self.store.workspace,
                listener=listener,
                comparison=comparison,
            )
            self.report.trials.append(table)
        return True

    def _comparison(self, runs: Sequence[RunSpec]) -> Comparison:
        """Return how this search compares unfinished trainings of one method."""
        request = self.sweep.request
        objective = objective_of(request.objective, runs[0], while_training=True)
        return Comparison(objective, mode_of(objective), request, max(run.optim.epochs for run in runs))

    def _trainable(
        self, workers: Workers, resources: Resources
    ) -> tuple[Callable[[Config, trials.Find], None], Mapping[str, float], int]:
        """Return the function of trials of so many workers, what a trial reserves, and how many fit at once."""
        per_worker = worker_resources(self.options, resources)
        concurrent = resources.fit({name: max_workers(workers) * amount for name, amount in per_worker.items()})
        if workers == 1:
            return trials.train_trial, per_worker, concurrent
        return trials.train_on_workers_trial, DRIVER_RESOURCES, concurrent

    def _evaluate(self, specs: Sequence[EvalSpec], parent: str, resources: Resources) -> None:
        """Carry out evaluations, one job per group that shares its computation, the longest first."""
        trained = Results.read(self.store, self.sweep.tables).trainings
        groups = {group: self.sweep.trainings[group[0].run] for group in together(specs)}
        jobs = [
            EvalJob(
                specs=group,
                title=self.sweep.titles[run.key],
                tags={
                    "profile": self.sweep.profile.name,
                    "method": run.entry.title,
                    "scheme": scheme_label(run),
                    "mlflow.runColor": scheme_colour(run),
                },
                workspace=self.store.workspace,
                launch=self.key,
                parent=trained[run.key].run_id,
                sweep=parent,
            )
            for group, run in sorted(groups.items(), key=lambda item: evaluation_work(*item), reverse=True)
        ]
        per_trial = {"CPU": 1.0}
        self._run(trials.evaluate_trial, per_trial, resources.fit(per_trial), jobs)
        publish_results(self.sweep, self.store, {spec.key for spec in specs})

    def _run(
        self,
        trainable: Callable[[Config, trials.Find], None],
        per_trial: Mapping[str, float],
        concurrent: int,
        jobs: Sequence[JobT],
    ) -> None:
        from eman.sweeps.run.tuning import run_jobs

        self._jobs = {key: job for job in jobs for key in job.keys}
        self.emit(Waiting("waiting for a free core"))
        runs = [job.spec for job in jobs if isinstance(job, TrainJob)]
        comparison = self._comparison(runs) if runs and self.sweep.request.scheduler != "none" else None
        table = run_jobs(
            trainable,
            jobs,
            resources=per_trial,
            concurrent=concurrent,
            workspace=self.store.workspace,
            listener=Listener(self._interruption, self.emit, self._resolve_lost, self._resolve_stopped),
            comparison=comparison,
        )
        if runs:
            self.report.trials.append(table)

    def _resolve_stopped(self, key: str) -> Outcome:
        """Record that a scheduler has stopped a training; without one, look up the outcome."""
        record = self.store.by_key(TRAINING, [key]).get(key)
        if record is None or self.sweep.request.scheduler == "none":
            return self._resolve_lost(Lost(key, "its trial ended without an outcome"))
        request, epoch = self.sweep.request, round(record.share * self.sweep.trainings[key].optim.epochs)
        stopped = Stopped(key, f"at epoch {epoch} by scheduler {request.scheduler}")
        RunLog(self.store, record.run_id).stop(stopped.reason)
        return stopped

    def _resolve_lost(self, lost: Lost) -> Outcome:
        """Look up the outcome of this launch's run whose trial ended without one."""
        job = self._jobs[lost.key]
        self._lost_workers |= isinstance(job, TrainJob) and job.workers != 1
        return resolve_lost(self.store, TRAINING if isinstance(job, TrainJob) else EVALUATION, lost, self.key)


def resolve_lost(store: Store, kind: str, lost: Lost, launch: str) -> Outcome:
    """Return the recorded outcome of a lost run; mark the run as interrupted if it is recorded as running."""
    for record in store.records(kind, lost.key):
        if record.launch == launch and record.status == "failed":
            return Failed(lost.key, record.reason)
        if record.launch == launch and record.status == "done":
            return Done(lost.key, record.metrics.get("train/seconds", 0.0), record.metrics)
        if record.launch == launch and record.status == "running":
            RunLog(store, record.run_id).interrupt()
    return lost
