"""Run jobs as trials of Ray Tune. This module imports Ray.

A trial's configuration tells people what is compared. Its job travels beside it, in Ray's object store: configurations
are copied often, and tables show them.
"""

import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from eman.platform.store.records import new_id
from eman.platform.workspace import Workspace
from eman.sweeps.run.events import Done, Failed, Lost, Started
from eman.sweeps.run.jobs import Config, Job, JobT
from eman.sweeps.run.listener import Comparison, Listener
from eman.sweeps.run.trials import Find

if TYPE_CHECKING:
    import pandas as pd

#: Columns of Ray's result tables that say nothing about a training.
_DROPPED = (
    "event",
    "scheduled_epoch",
    "config/job",
    "done",
    "time_this_iter_s",
    "iterations_since_restore",
    "time_since_restore",
)


class _MedianRule(MedianStoppingRule):
    """Ray's rule for trainings whose last report has no epoch: it would look for one there when they have ended."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        """Keep the results of the epochs alone."""


class EventCallback(tune.Callback):
    """Pass the events of trials to a listener; `jobs` are by the key in a trial's configuration.

    Tune pickles its callbacks; this one pickles without its state.
    """

    def __init__(self, listener: Listener, jobs: Mapping[str, Job]) -> None:
        self.listener, self.jobs = listener, jobs
        self.open: dict[str, set[str]] = {}  # runs without an outcome, by trial

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        keys = self.jobs[trial.config["key"]].keys
        self.open[trial.trial_id] = set(keys)
        for key in keys:
            self.listener.emit(Started(key))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.listener.interruption.check()
        event, waiting = result.get("event"), self.open[trial.trial_id]
        if event is None or event.key not in waiting:  # restarted workers repeat events
            return
        if isinstance(event, Done | Failed | Lost):
            waiting.remove(event.key)
        self.listener.emit(self.listener.resolve_lost(event) if isinstance(event, Lost) else event)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record runs without an outcome as stopped: only a scheduler ends a trial early."""
        for key in sorted(self.open.pop(trial.trial_id, ())):
            self.listener.emit(self.listener.resolve_stopped(key))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        for key in sorted(self.open.pop(trial.trial_id, ())):
            self.listener.emit(self.listener.resolve_lost(Lost(key, "its process died")))


@dataclass(frozen=True)
class StoredJobs:
    """Jobs in Ray's object store, grouped by the first two digits of their keys, so that a trial fetches few others."""

    objects: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> "StoredJobs":
        parts: dict[str, dict[str, Job]] = defaultdict(dict)
        for job in jobs:
            parts[job.keys[0][:2]][job.keys[0]] = job
        return cls({start: ray.put(part) for start, part in parts.items()})

    def __call__(self, config: Config) -> Any:
        key = str(config["key"])
        return ray.get(self.objects[key[:2]])[key]


#: Trials of one experiment of Tune, or more on a cluster that runs many at once and would idle between experiments.
MOST_TRIALS = 1000


def _scheduler(comparison: Comparison) -> TrialScheduler:
    request = comparison.request
    never: Any = math.inf  # a training is not paused to wait for others; the type hint says int
    if request.scheduler == "asha":
        return ASHAScheduler(
            time_attr="scheduled_epoch",
            metric=comparison.objective,
            mode=comparison.mode,
            max_t=comparison.epochs,
            grace_period=request.grace,
            reduction_factor=request.reduction,
        )
    if request.scheduler == "median":
        return _MedianRule(
            time_attr="scheduled_epoch",
            metric=comparison.objective,
            mode=comparison.mode,
            grace_period=request.grace,
            min_samples_required=2,
            min_time_slice=never,
        )
    return FIFOScheduler()


def run_jobs(
    trainable: Callable[[Config, Find], None],
    jobs: Sequence[JobT],
    *,
    resources: Mapping[str, float],
    concurrent: int,
    workspace: Workspace,
    listener: Listener,
    comparison: Comparison | None = None,
) -> "pd.DataFrame":
    """Run each job as a trial of Ray Tune, in this order, reusing the processes of finished trials.

    A trial reserves `resources` and calls `trainable`, which reports events. Many jobs are several experiments of Tune
    one after the other, since it keeps its trials in memory until an experiment ends; a scheduler compares all trials,
    so with a `comparison` they are one.

    Returns:
        Ray's table of the trials: configuration and last report of each.

    Raises:
        KeyboardInterrupt: A signal was received.
    """
    import pandas as pd

    size = len(jobs) if comparison is not None else max(MOST_TRIALS, 20 * concurrent)
    tables = []
    for start in range(0, len(jobs), size):
        part = jobs[start : start + size]
        given = [job.config for job in part]
        names = dict.fromkeys(name for config in given for name in config)
        configs = [{**dict.fromkeys(names), **config} for config in given]
        table = _fit(
            tune.with_resources(tune.with_parameters(trainable, find=StoredJobs.of(part)), dict(resources)),
            {job.keys[0]: job for job in part},
            space=dict.fromkeys(names),  # every point is given, so nothing is drawn
            search=BasicVariantGenerator(points_to_evaluate=configs, max_concurrent=concurrent),
            samples=len(part),
            concurrent=None,
            workspace=workspace,
            listener=listener,
            comparison=comparison,
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def run_suggested_jobs(
    trainable: Callable[[Config, Find], None],
    jobs: dict[str, Job],
    search: Searcher,
    samples: int,
    *,
    resources: Mapping[str, float],
    concurrent: int,
    workspace: Workspace,
    listener: Listener,
    comparison: Comparison,
) -> "pd.DataFrame":
    """Run the jobs that a searcher suggests, at most `samples`; it adds them to `jobs`. See :func:`run_jobs`."""
    return _fit(
        tune.with_resources(tune.with_parameters(trainable, find=_by_reference), dict(resources)),
        jobs,
        space={},
        search=search,
        samples=samples,
        concurrent=concurrent,
        workspace=workspace,
        listener=listener,
        comparison=comparison,
    )


class _Titles:
    """Name trials after their jobs. Tune copies and pickles it: a copy is the same object, a pickle is empty."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.jobs = jobs

    def __deepcopy__(self, memo: Any) -> "_Titles":
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial: Any) -> str:
        return self.jobs[trial.config["key"]].title


def _by_reference(config: Config) -> Any:
    reference: Any = config["job"]
    return ray.get(reference)


def _fit(
    trainable: Any,
    jobs: Mapping[str, Job],
    *,
    space: Mapping[str, Any],
    search: Any,
    samples: int,
    concurrent: int | None,
    workspace: Workspace,
    listener: Listener,
    comparison: Comparison | None,
) -> "pd.DataFrame":
    name = f"tune-{new_id()}"
    tuner = tune.Tuner(
        trainable,
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            num_samples=samples,
            search_alg=search,
            scheduler=None if comparison is None else _scheduler(comparison),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_Titles(jobs),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(workspace.ray_folder),
            verbose=0,
            callbacks=[EventCallback(listener, jobs), JsonLoggerCallback()],  # the result table is read from its files
        ),
    )
    try:
        table = tuner.fit().get_dataframe()
        listener.interruption.check()
    finally:  # results are in the store; Tune's files are not needed
        shutil.rmtree(workspace.ray_folder / name, ignore_errors=True)
    return table.drop(columns=[column for column in _DROPPED if column in table])
