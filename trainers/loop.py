"""The training loop: one for all methods, on one worker or many. Ray Train's workers run it too."""

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


@dataclass
class Outcome:
    """What a training leaves: itself, metrics of its last epoch, the best monitored epoch, seconds in the loop."""

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
        """Replaces every worker's sums by their mean, which a run on other workers can take up."""
        for name in sorted(self.sums):
            distributed.mean_over_workers(self.sums[name])

    def means(self) -> Metrics:
        """Means over steps and workers."""
        self.share()
        return {name: float(value) / self.steps for name, value in sorted(self.sums.items())}


class _Run:
    """A training in progress: its place in the epoch, its best epoch, and its checkpoints."""

    def __init__(
        self,
        spec: RunSpec,
        workspace: Workspace,
        folder: Path | None,
        monitor: Monitor | None,
        on_epoch: OnEpoch | None,
        on_step: OnStep | None,
    ) -> None:
        self.spec, self.folder, self.monitor, self.on_epoch, self.on_step = spec, folder, monitor, on_epoch, on_step
        self.first = distributed.rank() == 0
        self.settings = workspace.settings
        self.training = Training(spec, workspace)
        self.epoch, self.metrics = _Epoch(), Metrics()
        self.best, self.best_epoch = -math.inf, 0
        if folder is not None:
            self._resume(folder / "resume.pt")
        self.resumed_from = self.epoch_from = self.training.step
        self.started = self.epoch_started = self.saved = time.monotonic()

    def _resume(self, path: Path) -> None:
        state = checkpoint.load_newest(path, self.spec.key)
        if state is not None:
            self.training.load_state(state)
            self.epoch = _Epoch(state["epoch_steps"], state["epoch_sums"])
            self.best, self.best_epoch = state["best"], state["best_epoch"]

    @property
    def done(self) -> bool:
        return self.training.step >= self.training.steps

    def step(self) -> None:
        training = self.training
        loss, measures, output = training.train_step()
        self.epoch.add({"train/loss": loss, **{f"train/{name}": value for name, value in measures.items()}})
        if self.on_step is not None and self.first:
            self.on_step(training.step, training.steps)
        if training.step % training.steps_per_epoch == 0:
            self._end_epoch(training.step // training.steps_per_epoch, output)

    def _end_epoch(self, number: int, output: Tensor) -> None:
        training, spec = self.training, self.spec
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
        if self.on_epoch is not None:
            self.on_epoch(number, self.metrics)
        self.epoch, self.epoch_started, self.epoch_from = _Epoch(), time.monotonic(), training.step

    def _monitor(self, number: int) -> None:
        if self.monitor is None:
            return
        measured = self.monitor(self.training)
        self.metrics |= measured
        headline = next(iter(measured.values()))
        if headline > self.best:
            self.best, self.best_epoch = headline, number
            if self.folder is not None:
                networks = {**self.training.networks(), "epoch": number}
                patience = self.settings.disk_patience
                checkpoint.save(self.folder / "best.pt", networks, self.spec.key, patience=patience)

    def checkpoint_due(self) -> bool:
        """Whether it is time to save; all workers get worker 0's answer."""
        due = time.monotonic() - self.saved > self.settings.checkpoint_seconds
        if distributed.workers() > 1 and self.training.step % _ASK_EVERY:
            return False
        return distributed.agreed(due)

    def save(self) -> None:
        """Writes ``resume.pt``. A disk that is full for a while costs a checkpoint, not the run."""
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
        except (OSError, RuntimeError) as error:  # PyTorch's writer wraps what the system says
            log.warning("no checkpoint of %s at step %d: %s", self.spec.key, self.training.step, error)

    def finish(self) -> None:
        """Writes the networks of the last epoch."""
        self.training.share_teacher_statistics()
        if self.folder is not None and self.first:
            networks = {**self.training.networks(), "epoch": self.spec.optim.epochs}
            patience = self.settings.disk_patience
            checkpoint.save(self.folder / "last.pt", networks, self.spec.key, patience=patience)


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
    """Trains one run from its start, or from its checkpoint, to its end.

    A run may be stopped on some number of workers and continued on another.

    Args:
        spec: The run.
        workspace: Where its data lie, and the run that it starts from, if any.
        folder: Where checkpoints go: ``resume.pt``, and the networks ``last.pt`` and ``best.pt``. ``None``: nowhere.
        monitor: Measures the networks every ``spec.monitor_every`` epochs and at the end (worker 0 alone); the first of
            its values decides which epoch is the best.
        on_epoch: Called on every worker with the number of epochs done and their metrics; worker 0's are complete.
        on_step: Called on worker 0 with the number of steps done and the total.
        stop_after: Stop after this many steps in all, writing a checkpoint, as an interruption would.

    Raises:
        RunFailed: The loss is not finite.
        UserError: The specification or a checkpoint cannot be used.
    """
    run = _Run(spec, workspace, folder, monitor, on_epoch, on_step)
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
    return Outcome(
        run.training, run.metrics, run.best_epoch, run.best, time.monotonic() - run.started, run.resumed_from
    )
