"""Ray Tune over tasks, and what their trials tell meanwhile."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eman.platform.store.store import new_id
from eman.sweeps.run.trial import Config
from eman.sweeps.view.progress import Progress

Trainable = Callable[[dict[str, list[Config]]], None]
OnDone = Callable[[Config, dict[str, Any]], None]
OnLost = Callable[[Config, str], dict[str, Any]]


def tune_over(
    folder: Path,
    trainable: Trainable,
    tasks: Sequence[list[Config]],
    each: Mapping[str, float],
    concurrent: int,
    progress: Progress,
    on_done: OnDone,
    on_lost: OnLost,
) -> None:
    """Runs tasks as trials of Ray Tune; actors of finished trials take the next ones.

    Args:
        folder: Where Tune keeps its own files meanwhile.
        trainable: What a trial runs. It gets its task as ``config["task"]`` and reports a dictionary with the ``share``
            that is done, at the end of a job with its outcome, and the place of the job ``at`` in its task (0 if it
            does not say). A task that cannot go on reports why it is ``lost``, or its process dies.
        tasks: Each a list of jobs that one trial does in turn.
        each: Resources of a trial.
        concurrent: Trials at a time.
        progress: Is told of every job.
        on_done: Is told the outcome of every job that was done or lost.
        on_lost: Finds the outcome of a job in whose course its trial was lost, from the job and the reason.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    if not tasks:
        return
    from ray import tune

    class Watch(tune.Callback):
        """Follows the trials' jobs. Tune pickles its callbacks; this one travels empty."""

        def __init__(self, progress: Progress, on_done: OnDone, on_lost: OnLost, pressed: _CtrlC) -> None:
            self.progress, self.on_done, self.on_lost, self.pressed = progress, on_done, on_lost, pressed
            self.left: dict[str, dict[int, Config]] = {}  # what each trial has still to do, by place
            self.why: dict[str, str] = {}  # why a trial was lost

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def _begin(self, name: str) -> None:
            if self.left[name]:
                self.progress.begin(next(iter(self.left[name].values()))["label"])

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.left[trial.trial_id] = dict(enumerate(trial.config["task"]))
            self._begin(trial.trial_id)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            self.pressed.check()
            name, at = trial.trial_id, result.get("at", 0)
            if "lost" in result:
                self.why[name] = result["lost"]
            elif at in self.left[name]:  # else its workers were started anew, and found that it is done
                job = self.left[name][at]
                self.progress.advance(job["label"], result["share"], result)
                if "status" in result:
                    del self.left[name][at]
                    self.on_done(job, result)
                    self._begin(name)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """What is left was lost, and the trial was at the first of it; the others have not begun."""
            name = trial.trial_id
            if self.left[name]:
                job = next(iter(self.left[name].values()))
                outcome = self.on_lost(job, self.why.get(name, "its process was lost"))
                self.progress.advance(job["label"], 0.0, outcome)
                self.on_done(job, outcome)

        on_trial_error = on_trial_complete

    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours: Tune would swallow it
    pressed = _CtrlC()
    name = f"tune-{new_id()}"
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(each)),
        param_space={"task": tune.grid_search(list(tasks))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder),
            verbose=0,
            callbacks=[Watch(progress, on_done, on_lost, pressed)],
        ),
    )
    try:
        with pressed:
            tuner.fit()
    finally:  # the store is the ledger; what Tune writes of its own would only grow
        shutil.rmtree(folder / name, ignore_errors=True)


class _CtrlC:
    """Remembers a Ctrl-C: the exception that it raises gets lost where it strikes a callback of C++ or a finalizer."""

    def __init__(self) -> None:
        self.pressed, self.before = False, signal.getsignal(signal.SIGINT)

    def _press(self, number: int, frame: Any) -> None:
        self.pressed = True
        if callable(self.before):
            self.before(number, frame)

    def check(self) -> None:
        """Raises what got lost."""
        if self.pressed:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._press)

    def __exit__(self, kind: object, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.before)
        if kind is None:
            self.check()
