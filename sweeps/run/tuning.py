"""Jobs as trials of Ray Tune, and the events that their trials report."""

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
    tell: Callable[[Event], None],
    settle: Callable[[Lost], Outcome],
) -> None:
    """Run each job as a trial of Ray Tune; the process of a finished trial takes the next job.

    Args:
        trainable: What a trial runs: it finds its job in ``config["job"]`` and reports events.
        jobs: In the order in which they start.
        resources: What Ray reserves for a trial.
        concurrent: Trials at a time.
        workspace: Where Tune may write.
        interruption: Signals to obey.
        tell: Called with every event, in this thread.
        settle: Finds out what became of a run whose trial ended without an outcome.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    from ray import tune

    from eman.sweeps.run.follow import Follow

    name = f"tune-{new_id()}"
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        param_space={"job": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=name, storage_path=str(workspace.ray_folder), verbose=0, callbacks=[Follow(interruption, tell, settle)]
        ),
    )
    try:
        tuner.fit()
        interruption.check()
    finally:  # results are in the store; Tune's own files would only pile up
        shutil.rmtree(workspace.ray_folder / name, ignore_errors=True)
