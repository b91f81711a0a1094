"""What trials need from the process that launched them. This module has no heavy imports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Event, Lost, Outcome
from eman.sweeps.run.interrupt import Interruption


@dataclass
class Listener:
    """What the launching process does with the events of trials.

    Attributes:
        interruption: Raises `KeyboardInterrupt` after a signal.
        emit: Takes every event.
        resolve_lost: Looks up the outcome of a run whose trial had none.
        resolve_stopped: Records a run whose trial ended before it had an outcome, because a scheduler stopped it.
    """

    interruption: Interruption
    emit: Callable[[Event], None]
    resolve_lost: Callable[[Lost], Outcome]
    resolve_stopped: Callable[[str], Outcome]


@dataclass(frozen=True)
class Comparison:
    """How a search compares trainings that are not finished.

    Attributes:
        objective: Metric to compare them by.
        mode: Whether smaller or larger values of it are better.
        request: The request, which names the scheduler and its options.
        epochs: Number of epochs of the longest training.
    """

    objective: str
    mode: Literal["min", "max"]
    request: SweepRequest
    epochs: int
