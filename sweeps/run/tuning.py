"""Run jobs as trials of Ray Tune. This module imports Ray."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune

from eman.platform.store.records import new_id
from eman.platform.workspace import Workspace
from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Started
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import JobT


class Follow(tune.Callback):
    """Pass the events of trials to `emit`; `resolve_lost` looks up the outcome of a run whose trial had none.

    Tune pickles its callbacks; this one pickles without its state.
    """

    def __init__(
        self, interruption: Interruption, emit: Callable[[Event], None], resolve_lost: Callable[[Lost], Outcome]
    ) -> None:
        self.interruption, self.emit, self.resolve_lost = interruption, emit, resolve_lost
        self.open: dict[str, set[str]] = {}  # runs without an outcome, by trial

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.open[trial.trial_id] = set(trial.config["job"].keys)
        for key in trial.config["job"].keys:
            self.emit(Started(key))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.interruption.check()
        event, waiting = result.get("event"), self.open[trial.trial_id]
        if event is None or event.key not in waiting:  # restarted workers repeat events
            return
        if isinstance(event, Done | Failed | Lost):
            waiting.remove(event.key)
        self.emit(self.resolve_lost(event) if isinstance(event, Lost) else event)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        for key in sorted(self.open.pop(trial.trial_id, ())):
            self.emit(self.resolve_lost(Lost(key, "its process died")))

    on_trial_error = on_trial_complete


def run_jobs(
    trainable: Callable[[dict[str, JobT]], None],
    jobs: Sequence[JobT],
    *,
    resources: Mapping[str, float],
    concurrent: int,
    workspace: Workspace,
    follow: Follow,
) -> None:
    """Run each job as a trial of Ray Tune, in this order, reusing the processes of finished trials.

    A trial reserves `resources` and calls `trainable`, which reads its job from ``config["job"]`` and reports events.

    Raises:
        KeyboardInterrupt: A signal was received.
    """
    name = f"tune-{new_id()}"
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        param_space={"job": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(name=name, storage_path=str(workspace.ray_folder), verbose=0, callbacks=[follow]),
    )
    try:
        tuner.fit()
        follow.interruption.check()
    finally:  # results are in the store; Tune's files are not needed
        shutil.rmtree(workspace.ray_folder / name, ignore_errors=True)
