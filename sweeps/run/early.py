"""What the trials of a search need from the process that launched it. This module has no heavy imports."""

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
        emit: Takes every event.
        resolve_lost: Looks up the outcome of a run whose trial had none.
        resolve_stopped: Records a run whose trial ended before it had an outcome, because a scheduler stopped it.
    """

    interruption: Interruption
    emit: Callable[[Event], None]
    resolve_lost: Callable[[Lost], Outcome]
    resolve_stopped: Callable[[str], Outcome]


@dataclass(frozen=True)
class Early:
    """How a search treats trainings that are not finished: which metric, which scheduler."""

    objective: str
    mode: Literal["min", "max"]
    request: SweepRequest
    epochs: int
