"""Run jobs as trials of Ray Tune."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from eman.platform.store.records import new_id
from eman.platform.workspace import Workspace
from eman.sweeps.run.events import Event, Lost, Outcome
from eman.sweeps.run.interrupt import Interruption
from eman.sweeps.run.jobs import EvalJob, TrainJob

JobT = TypeVar("JobT", TrainJob, EvalJob)


def run_jobs(
    trainable: Callable[[dict[str, JobT]], None],
    jobs: Sequence[JobT],
    *,
    resources: Mapping[str, float],
    concurrent: int,
    workspace: Workspace,
    interruption: Interruption,
    emit: Callable[[Event], None],
    resolve_lost: Callable[[Lost], Outcome],
) -> None:
    """Run each job as a trial of Ray Tune, reusing the processes of finished trials.

    Args:
        trainable: Function of a trial; it reads its job from ``config["job"]`` and reports events.
        jobs: Jobs in the order of their start.
        resources: Resources that Ray reserves for a trial.
        concurrent: Largest number of trials at a time.
        workspace: Workspace for Tune's files.
        interruption: Stops the sweep on a signal.
        emit: Called with every event, in this thread.
        resolve_lost: Looks up the outcome of a run whose trial ended without one.

    Raises:
        KeyboardInterrupt: A signal was received.
    """
    from ray import tune

    from eman.sweeps.run.follow import Follow

    name = f"tune-{new_id()}"
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        param_space={"job": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(workspace.ray_folder),
            verbose=0,
            callbacks=[Follow(interruption, emit, resolve_lost)],
        ),
    )
    try:
        tuner.fit()
        interruption.check()
    finally:  # results are in the store; Tune's files are not needed
        shutil.rmtree(workspace.ray_folder / name, ignore_errors=True)
