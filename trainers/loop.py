"""The training loop of all methods, on one worker or several. Ray Train's workers run it too."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eman.platform import checkpoint
from eman.platform.errors import RunFailed
from eman.platform.saver import Saver
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training

#: Steps between the broadcasts by which several workers agree whether a checkpoint is due, or whether to leave.
_AGREE_EVERY = 20

#: Seconds between calls of `leave`, which may ask another process.
_LEAVE_SECONDS = 1.0

Metrics = dict[str, float]
Monitor = Callable[[Training], Metrics]
OnEpoch = Callable[[int, Metrics], None]
OnStep = Callable[[int, int], None]
Leave = Callable[[], bool]
OnPoint = Callable[[int, Metrics], None]

log = logging.getLogger("eman")


@dataclass(frozen=True)
class Callbacks:
    """Functions that the loop calls.

    Attributes:
        monitor: Measures the networks every ``spec.monitor_every`` epochs and after the last, on worker 0 only. The
            best epoch is the one with the largest first metric.
        on_epoch: Called on every worker with the number of finished epochs and the last one's metrics. Only worker 0
            has the monitor's metrics.
        on_step: Called on worker 0 with the number of finished steps and the total.
        leave: Called on every worker, with the same answer on all, about once a second: whether to save a checkpoint
            and stop, because a node is about to be removed.
        on_point: Called on worker 0 at ``settings.curve_points`` evenly spaced steps, with the number of finished steps
            and the last one's loss on this worker and rates.
    """

    monitor: Monitor | None = None
    on_epoch: OnEpoch | None = None
    on_step: OnStep | None = None
    leave: Leave | None = None
    on_point: OnPoint | None = None


@dataclass
class Outcome:
    """The result of a training.

    Attributes:
        training: The training after its last step.
        metrics: Metrics of the last epoch.
        best_epoch: The best monitored epoch; 0 if none was monitored.
        best: First monitored metric of the best epoch; -inf if none was monitored.
        seconds: Time in the loop.
        resumed_from: Step of the checkpoint from which the run continued; 0 if there was none.
    """

    training: Training
    metrics: Metrics
    best_epoch: int
    best: float
    seconds: float
    resumed_from: int

    @property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return self.training.step >= self.training.steps


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
        """Replace every worker's sums by their mean over workers, so that a checkpoint fits any number of workers."""
        for name in sorted(self.sums):
            distributed.mean_over_workers(self.sums[name])

    def means(self) -> Metrics:
        """Return the means over steps and workers."""
        self.share()
        return {name: float(value) / self.steps for name, value in sorted(self.sums.items())}


class _Run:
    """A training in progress: its place in the epoch, its best epoch, and its checkpoints."""

    def __init__(
        self, spec: RunSpec, workspace: Workspace, folder: Place | None, callbacks: Callbacks, *, save_epochs: bool
    ) -> None:
        self.spec, self.callbacks, self.save_epochs = spec, callbacks, save_epochs
        self.settings = workspace.settings
        self.first = distributed.rank() == 0
        self.epoch, self.metrics = _Epoch(), Metrics()
        self.low_epochs = 0  # epochs in a row with train/feature_std below collapse_bound
        self.best, self.best_epoch = -math.inf, 0
        self.saver = None if folder is None else Saver(folder, spec.key, workspace.unsent_folder(spec.key))
        state = self._newest()
        if state is None:
            self.training = Training.fresh(spec, workspace)
        else:
            self.training = Training.resumed(spec, workspace, state)
            self.epoch = _Epoch(state["epoch_steps"], state["epoch_sums"])
            self.best, self.best_epoch = state["best"], state["best_epoch"]
            self.low_epochs = state["low_epochs"]
        points = self.settings.curve_points if callbacks.on_point is not None and self.first else 0
        self.point_every = math.ceil(self.training.steps / points) if points else 0
        self.resumed_from = self.epoch_from = self.training.step
        self.started = self.epoch_started = self.saved = self.asked = time.monotonic()

    def _newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, on every worker the same."""
        if self.saver is None:
            return None
        if self.first:
            self.saver.recover()
        distributed.agreed(True)  # wait for worker 0
        return checkpoint.load_newest(self.saver.folder, self.spec.key)

    @property
    def done(self) -> bool:
        return self.training.step >= self.training.steps

    def step(self) -> None:
        training, on_step = self.training, self.callbacks.on_step
        loss, measures, output = training.train_step()
        self.epoch.add({"train/loss": loss, **{f"train/{name}": value for name, value in measures.items()}})
        if on_step is not None and self.first:
            on_step(training.step, training.steps)
        if self.point_every and training.step % self.point_every == 0:
            self._point(loss)
        if training.step % training.steps_per_epoch == 0:
            self._end_epoch(training.step // training.steps_per_epoch, output)

    def _point(self, loss: Tensor) -> None:
        training, on_point = self.training, self.callbacks.on_point
        assert on_point is not None
        last = training.step - 1
        rates = {"step/lr": training.learning_rate_at(last), "step/momentum": training.momentum_at(last)}
        on_point(training.step, {"step/loss": float(loss), **rates})

    def _end_epoch(self, number: int, output: Tensor) -> None:
        training, spec, on_epoch = self.training, self.spec, self.callbacks.on_epoch
        metrics = self.epoch.means()
        if not all(math.isfinite(value) for value in metrics.values()):
            raise RunFailed(f"collapsed at epoch {number}: the loss is not finite")
        elapsed = time.monotonic() - self.epoch_started
        self.metrics = metrics | {
            "train/images_per_second": (training.step - self.epoch_from) * spec.method.images_per_step / elapsed,
            "train/lr": training.learning_rate_at(training.step - 1),
            "train/momentum": training.momentum_at(training.step - 1),
            "train/feature_std": feature_std(output),
        }
        if self.first and (number % spec.monitor_every == 0 or number == spec.optim.epochs):
            self._monitor(number)
        low = self.metrics["train/feature_std"] < spec.execution.collapse_bound and number > spec.optim.warmup_epochs
        self.low_epochs = self.low_epochs + 1 if distributed.agreed(low) else 0
        self.epoch, self.epoch_from = _Epoch(), training.step
        if self.save_epochs and not self.done:
            self.save()
        if on_epoch is not None:
            on_epoch(number, self.metrics)
        if self.low_epochs >= spec.execution.collapse_patience:
            raise RunFailed(
                f"collapsed at epoch {number}: the standard deviation of features has been below "
                f"{spec.execution.collapse_bound:g} for {self.low_epochs} epochs"
            )
        self.epoch_started = time.monotonic()

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
        if self.saver is not None and self.first:
            self.saver.save(name, {**self.training.weights(), "epoch": epoch})

    def checkpoint_due(self) -> bool:
        """Return whether worker 0 wants to save a checkpoint now."""
        due = time.monotonic() - self.saved > self.settings.checkpoint_seconds
        if distributed.workers() > 1 and self.training.step % _AGREE_EVERY:
            return False
        return distributed.agreed(due)

    def must_leave(self) -> bool:
        """Return whether ``leave`` wants the run to stop here."""
        leave = self.callbacks.leave
        if leave is None or self.done or (distributed.workers() > 1 and self.training.step % _AGREE_EVERY):
            return False
        if not distributed.agreed(time.monotonic() - self.asked > _LEAVE_SECONDS):
            return False
        self.asked = time.monotonic()
        return leave()

    def save(self) -> None:
        """Write a checkpoint. If that fails, for example on a full disk, log a warning and continue."""
        self.saved = time.monotonic()
        if self.saver is None:
            return
        self.epoch.share()
        self.training.share_teacher_statistics()
        if self.first:
            self._write_newest(self.saver)

    def _write_newest(self, saver: Saver) -> None:
        state: dict[str, Any] = {
            **self.training.state(),
            "epoch_steps": self.epoch.steps,
            "epoch_sums": self.epoch.sums,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "low_epochs": self.low_epochs,
        }
        try:
            saver.save_newest(self.training.step, state)
        except OSError as error:
            log.warning("no checkpoint of %s at step %d: %s", self.spec.key, self.training.step, error)

    def finish(self) -> None:
        """Write the networks of the last epoch."""
        self.training.share_teacher_statistics()
        if self.saver is not None and self.saver.has_pending:  # if storage stays unreachable, the run resumes here
            self._write_newest(self.saver)
        self._save_weights("last.pt", self.spec.optim.epochs)

    def close(self) -> None:
        """Release processes and threads."""
        self.training.close()
        if self.saver is not None:
            self.saver.close()


def fit(
    spec: RunSpec,
    workspace: Workspace,
    *,
    folder: Place | None = None,
    monitor: Monitor | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    leave: Leave | None = None,
    on_point: OnPoint | None = None,
    stop_after: int | None = None,
    save_epochs: bool = False,
) -> Outcome:
    """Train a run to its end, from its newest checkpoint if there is one.

    A run may continue on another number of workers. A checkpoint that is damaged or belongs to another run is set aside
    with a warning.

    Args:
        spec: The run.
        workspace: Location of data sets, and of the run that it starts from.
        folder: Folder of the checkpoints ``resume-STEP.pt`` and the networks ``last.pt`` and ``best.pt``; ``None``
            saves nothing. In object storage they are written in the background.
        monitor: See :class:`Callbacks`.
        on_epoch: See :class:`Callbacks`.
        on_step: See :class:`Callbacks`.
        leave: See :class:`Callbacks`.
        on_point: See :class:`Callbacks`.
        stop_after: Save a checkpoint and stop after this many steps, counted from the run's start.
        save_epochs: Save a checkpoint after every epoch, before `on_epoch`, which may end the process.

    Raises:
        RunFailed: The run has collapsed: the loss is not finite, or the features of all images are nearly equal. A
            second attempt would fail in the same way.
        UserError: Data, the initial run or a package is missing, the workers do not divide the devices, or storage
            stays full or unreachable.
    """
    callbacks = Callbacks(monitor, on_epoch, on_step, leave, on_point)
    run = _Run(spec, workspace, folder, callbacks, save_epochs=save_epochs)
    try:
        while not run.done:
            run.step()
            if run.must_leave() or (stop_after is not None and run.training.step >= stop_after):
                run.save()
                break
            if run.checkpoint_due():
                run.save()
        else:
            run.finish()
        if run.saver is not None:
            run.saver.flush()
    finally:
        run.close()
    seconds = time.monotonic() - run.started
    return Outcome(run.training, run.metrics, run.best_epoch, run.best, seconds, run.resumed_from)


def feature_std(output: Tensor) -> float:
    """Return the standard deviation over the batch of the output, scaled to length 1, times the root of its width.

    It detects collapse: near 1 for outputs spread evenly over the sphere, 0 if all outputs are equal. ``output`` holds
    this worker's images; the result is that of all workers' images, and all must call this.
    """
    unit = torch.nn.functional.normalize(output.double(), dim=1)
    count = len(unit) * distributed.workers()
    centre = distributed.mean_over_workers(unit.mean(0))
    variance = distributed.mean_over_workers((unit - centre).square().mean(0)).sum()
    return float((variance * count / (count - 1)).sqrt()) if count > 1 else 0.0
