"""Launching: run on Ray what the store lacks of a sweep, and go on until nothing is missing."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from eman.evaluation.protocols.groups import together
from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results.values import Results
from eman.platform.cluster import DRIVER_RESOURCES, Resources
from eman.platform.store.records import EVALUATION, TRAINING, new_id
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.sweeps.run import trials
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Waiting
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import EvalJob, Job, TrainJob, most
from eman.sweeps.run.options import Options, Report, worker_resources, workers_of
from eman.sweeps.run.publish import publish_results
from eman.sweeps.run.state import SweepState
from eman.sweeps.run.todo import Todo, find_todo, is_running_elsewhere
from eman.sweeps.run.tuning import JobT, run_jobs
from eman.sweeps.work import evaluation_work, work
from eman.trainers.spec.labels import scheme_label
from eman.trainers.spec.run import RunSpec

#: After so many rounds without a new result the launch gives up.
ROUNDS = 20

#: Seconds between two looks at runs that another launch is running.
_WAIT_SECONDS = 5.0


class Launch:
    """One launch of a sweep.

    Args:
        state: The sweep's state; every event is applied to it.
        store: Where results are and go.
        options: How to carry it out.
        interruption: Signals to obey.
        listen: Called with every event.
    """

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

    def tell(self, event: Event) -> None:
        """Take in an event and pass it on."""
        self.state.apply(event)
        match event:
            case Done(key=key):
                job = self._jobs.get(key)
                if isinstance(job, TrainJob):
                    self.report.trained += 1
                    self.report.training_seconds += event.seconds * most(job.workers)
                else:
                    self.report.evaluated += 1
            case Failed(key=key):
                self._failures[key] += 1
        self._listen(self.state, event)

    def todo(self) -> Todo:
        """Read the store and return what is to be done."""
        results = Results.read(self.store, self.sweep.tables)
        for event in self.state.news(results):
            self.state.apply(event)
        todo = find_todo(self.sweep, results, self._failures, self.options.retries, self.store.workspace)
        for key in [*(spec.key for spec in todo.trainings), *(spec.key for spec in todo.evaluations)]:
            self.state.apply(Lost(key))  # failed before, or without its files: it is waiting again
        return todo

    def carry_out(self, parent: str, resources: Resources) -> bool:
        """Run what is missing until nothing is, or nothing more can be done.

        Returns:
            Whether that is so. If not, the cluster has to be joined anew: a Ray Train controller that dies while its
            workers start leaves their placement group behind, which Ray's cleaner learns of only when they have
            started; its CPUs are free again when the Ray job that made it ends.
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
            elif todo.evaluations:
                self._evaluate(todo.evaluations, resources)
            elif not self._wait_for_others():
                break
        return True

    def release(self) -> None:
        """Mark this launch's unfinished runs as interrupted, so that the next launch takes them up at once."""
        for record in self.store.open_records():
            if record.launch == self.key:
                RunLog(self.store, record.run_id, 0).interrupt()

    def _wait_for_others(self) -> bool:
        """Wait while other launches run something of this sweep; return whether any did."""
        waited = False
        while is_running_elsewhere(self.sweep, Results.read(self.store, self.sweep.tables)):
            if not waited:
                self.tell(Waiting("waiting for runs of another launch"))
            waited = True
            time.sleep(_WAIT_SECONDS)
            self.store.deliver()
        return waited

    def _train(self, todo: Todo, parent: str, resources: Resources) -> None:
        """Train runs of several workers one by one, then all others side by side, the longest first."""
        each = worker_resources(self.options, resources)
        jobs = [
            TrainJob(
                spec=spec,
                title=self.sweep.titles[spec.key],
                profile=self.sweep.profile.name,
                workspace=self.store.workspace,
                launch=self.key,
                parent=parent,
                workers=workers_of(spec, self.sweep, self.options, resources),
                resources=each,
                redo=todo.gone.get(spec.key, ""),
            )
            for spec in sorted(todo.trainings, key=work, reverse=True)
        ]
        for workers in sorted({job.workers for job in jobs}, key=most, reverse=True):
            alike = [job for job in jobs if job.workers == workers]
            room = _side_by_side({name: most(workers) * need for name, need in each.items()}, resources)
            if workers == 1:
                self._run(trials.train_trial, alike, each, room)
            else:
                self._run(trials.train_on_workers_trial, alike, DRIVER_RESOURCES, room)

    def _evaluate(self, specs: Sequence[EvalSpec], resources: Resources) -> None:
        """Carry out evaluations, those that share their computation as one job, the longest first."""
        results = Results.read(self.store, self.sweep.tables)
        groups = sorted(
            together(specs), key=lambda group: evaluation_work(group, self.sweep.trainings[group[0].run]), reverse=True
        )
        jobs = [
            EvalJob(
                specs=group,
                title=self.sweep.titles[group[0].run],
                tags=self._tags(self.sweep.trainings[group[0].run]),
                workspace=self.store.workspace,
                launch=self.key,
                parent=results.trainings[group[0].run].run_id,
            )
            for group in groups
        ]
        each = {"CPU": 1.0}
        self._run(trials.evaluate_trial, jobs, each, _side_by_side(each, resources))
        publish_results(self.sweep, self.store, {spec.key for spec in specs})

    def _tags(self, run: RunSpec) -> dict[str, str]:
        return {
            "profile": self.sweep.profile.name,
            "method": run.entry.title,
            "scheme": scheme_label(run),
        }

    def _run(
        self,
        trainable: Callable[[dict[str, JobT]], None],
        jobs: Sequence[JobT],
        each: Mapping[str, float],
        concurrent: int,
    ) -> None:
        self._jobs = {key: job for job in jobs for key in job.keys}
        self.tell(Waiting("waiting for a free core"))
        run_jobs(
            trainable,
            jobs,
            resources=each,
            concurrent=concurrent,
            workspace=self.store.workspace,
            interruption=self._interruption,
            tell=self.tell,
            settle=self._settle,
        )

    def _settle(self, lost: Lost) -> Outcome:
        """Find out from the store what became of a run of ours that ended without an outcome."""
        job = self._jobs[lost.key]
        self._lost_workers |= isinstance(job, TrainJob) and job.workers != 1
        kind = TRAINING if isinstance(job, TrainJob) else EVALUATION
        return settle(self.store, kind, lost, self.key)


def settle(store: Store, kind: str, lost: Lost, launch: str) -> Outcome:
    """Return the outcome that the store has of a lost run; release the run if the store says that it is running."""
    for record in store.records(kind, lost.key):
        if record.launch != launch:
            continue
        if record.status == "failed":
            return Failed(lost.key, record.reason)
        if record.status == "done":
            return Done(lost.key, record.metrics.get("train/seconds", 0.0), record.metrics)
        if record.status == "running":
            RunLog(store, record.run_id, 0).interrupt()
    return lost


def _side_by_side(each: Mapping[str, float], resources: Resources) -> int:
    """Return how many trials the cluster can hold at once."""
    has = {"CPU": resources.cpus, "GPU": resources.gpus}
    return max(1, min(int(has[name] / need + 1e-6) for name, need in each.items() if need))
