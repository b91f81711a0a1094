"""The training loop: one for all methods, on one worker or many. Ray Train's workers run it, too."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eman.platform import checkpoint
from eman.platform.errors import RunFailed
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training, feature_std

#: Several workers ask each other every so many steps whether a checkpoint is due.
_ASK_EVERY = 20

Metrics = dict[str, float]
Monitor = Callable[[Training], Metrics]
OnEpoch = Callable[[int, Metrics], None]
OnStep = Callable[[int, int], None]

log = logging.getLogger("eman")


@dataclass(frozen=True)
class Callbacks:
    """What a run calls.

    Attributes:
        monitor: Measures the networks every ``spec.monitor_every`` epochs and at the end, on worker 0 alone; the first
            of its values decides which epoch is the best.
        on_epoch: Gets the number of epochs done and their metrics, on every worker; worker 0's are complete.
        on_step: Gets the number of steps done and the total, on worker 0 alone.
    """

    monitor: Monitor | None = None
    on_epoch: OnEpoch | None = None
    on_step: OnStep | None = None


@dataclass
class Outcome:
    """The result of a training.

    Attributes:
        training: The training after its last step.
        metrics: Those of the last epoch.
        best_epoch: The best monitored epoch; 0 if there was none.
        best: Its first metric.
        seconds: Time in the loop.
        resumed_from: The step of the checkpoint that it went on from; 0 if there was none.
    """

    training: Training
    metrics: Metrics
    best_epoch: int
    best: float
    seconds: float
    resumed_from: int


@dataclass
class _Epoch:
    """Sums over the steps of an epoch."""

    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, values: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def share(self) -> None:
        """Replace every worker's sums by their mean, from which other workers can continue."""
        for name in sorted(self.sums):
            distributed.mean_over_workers(self.sums[name])

    def means(self) -> Metrics:
        """Return means over steps and workers."""
        self.share()
        return {name: float(value) / self.steps for name, value in sorted(self.sums.items())}


class _Run:
    """A training in progress: its place in the epoch, its best epoch, and its checkpoints."""

    def __init__(self, spec: RunSpec, workspace: Workspace, folder: Path | None, callbacks: Callbacks) -> None:
        self.spec, self.folder, self.callbacks = spec, folder, callbacks
        self.settings = workspace.settings
        self.first = distributed.rank() == 0
        self.epoch, self.metrics = _Epoch(), Metrics()
        self.best, self.best_epoch = -math.inf, 0
        state = None if folder is None else checkpoint.load_newest(folder / "resume.pt", spec.key)
        if state is None:
            self.training = Training.fresh(spec, workspace)
        else:
            self.training = Training.resumed(spec, workspace, state)
            self.epoch = _Epoch(state["epoch_steps"], state["epoch_sums"])
            self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.resumed_from = self.epoch_from = self.training.step
        self.started = self.epoch_started = self.saved = time.monotonic()

    @property
    def done(self) -> bool:
        return self.training.step >= self.training.steps

    def step(self) -> None:
        training, on_step = self.training, self.callbacks.on_step
        loss, measures, output = training.train_step()
        self.epoch.add({"train/loss": loss, **{f"train/{name}": value for name, value in measures.items()}})
        if on_step is not None and self.first:
            on_step(training.step, training.steps)
        if training.step % training.steps_per_epoch == 0:
            self._end_epoch(training.step // training.steps_per_epoch, output)

    def _end_epoch(self, number: int, output: Tensor) -> None:
        training, spec, on_epoch = self.training, self.spec, self.callbacks.on_epoch
        metrics = self.epoch.means()
        if not all(math.isfinite(value) for value in metrics.values()):
            raise RunFailed(f"the loss is not finite in epoch {number}")
        elapsed = time.monotonic() - self.epoch_started
        self.metrics = metrics | {
            "train/images_per_second": (training.step - self.epoch_from) * spec.method.images_per_step / elapsed,
            "train/lr": training.optimizer.param_groups[0]["lr"],
            "train/momentum": training.momentum(),
            "train/feature_std": feature_std(output),
        }
        if self.first and (number % spec.monitor_every == 0 or number == spec.optim.epochs):
            self._monitor(number)
        if on_epoch is not None:
            on_epoch(number, self.metrics)
        self.epoch, self.epoch_started, self.epoch_from = _Epoch(), time.monotonic(), training.step

    def _monitor(self, number: int) -> None:
        if self.callbacks.monitor is None:
            return
        measured = self.callbacks.monitor(self.training)
        self.metrics |= measured
        headline = next(iter(measured.values()))
        if headline > self.best:
            self.best, self.best_epoch = headline, number
            self._save_weights("best.pt", number)

    def _save_weights(self, name: str, epoch: int) -> None:
        if self.folder is not None and self.first:
            weights = {**self.training.weights(), "epoch": epoch}
            checkpoint.save(self.folder / name, weights, self.spec.key, patience=self.settings.disk_patience)

    def checkpoint_due(self) -> bool:
        """Whether it is time to save; all workers get worker 0's answer."""
        due = time.monotonic() - self.saved > self.settings.checkpoint_seconds
        if distributed.workers() > 1 and self.training.step % _ASK_EVERY:
            return False
        return distributed.agreed(due)

    def save(self) -> None:
        """Write ``resume.pt``. A disk that is full for a while costs a checkpoint, not the run."""
        self.saved = time.monotonic()
        if self.folder is None:
            return
        self.epoch.share()
        self.training.share_teacher_statistics()
        if not self.first:
            return
        state: dict[str, Any] = {
            **self.training.state(),
            "epoch_steps": self.epoch.steps,
            "epoch_sums": self.epoch.sums,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        try:
            checkpoint.save_newest(self.folder / "resume.pt", state, self.spec.key)
        except OSError as error:
            log.warning("no checkpoint of %s at step %d: %s", self.spec.key, self.training.step, error)

    def finish(self) -> None:
        """Write the networks of the last epoch."""
        self.training.share_teacher_statistics()
        self._save_weights("last.pt", self.spec.optim.epochs)


def fit(
    spec: RunSpec,
    workspace: Workspace,
    *,
    folder: Path | None = None,
    monitor: Monitor | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    stop_after: int | None = None,
) -> Outcome:
    """Train one run to its end, from its start or from its checkpoint.

    A run may be stopped on some number of workers and continued on another. A checkpoint that is damaged, or another
    run's, is set aside with a warning.

    Args:
        spec: The run.
        workspace: Where its data are, and the run that it starts from, if any.
        folder: Where checkpoints go: ``resume.pt``, and the networks ``last.pt`` and ``best.pt``. ``None``: nowhere.
        monitor: See :class:`Callbacks`.
        on_epoch: See :class:`Callbacks`.
        on_step: See :class:`Callbacks`.
        stop_after: Stop after this many steps in all, writing a checkpoint, as an interruption would.

    Raises:
        RunFailed: The loss is not finite.
        UserError: The specification cannot be run here, or the disk is full.
    """
    run = _Run(spec, workspace, folder, Callbacks(monitor, on_epoch, on_step))
    try:
        while not run.done:
            run.step()
            if stop_after is not None and run.training.step >= stop_after:
                run.save()
                break
            if run.checkpoint_due():
                run.save()
        else:
            run.finish()
    finally:
        run.training.close()
    seconds = time.monotonic() - run.started
    return Outcome(run.training, run.metrics, run.best_epoch, run.best, seconds, run.resumed_from)
