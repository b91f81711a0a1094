"""Events: changes in the state of a sweep's runs.

Trials send them to the process that launched the sweep; `eman status --watch` derives the same events from the store.
:class:`~eman.sweeps.run.state.SweepState` turns them into the state of the sweep.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunEvent:
    """An event of the run with this key; ``at`` is in seconds since the epoch."""

    key: str
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Started(RunEvent):
    """A process has started the run."""


@dataclass(frozen=True)
class Progress(RunEvent):
    """Completed share of a training, and number and metrics of its last epoch, which are empty within an epoch."""

    share: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Done(RunEvent):
    """The run is finished, after this many seconds in the training loop, with these final metrics."""

    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed(RunEvent):
    """The run failed for this reason."""

    reason: str


@dataclass(frozen=True)
class Lost(RunEvent):
    """The run ended without an outcome: its process died, it was interrupted, or another process is running it.

    ``reason`` is empty if a user need not see it.
    """

    reason: str = ""


@dataclass(frozen=True)
class Preempted(Lost):
    """The run saved a checkpoint and stopped, because a node that it runs on is about to go. It starts again."""


@dataclass(frozen=True)
class Stopped(RunEvent):
    """A search's scheduler ended the training early, for this reason."""

    reason: str


@dataclass(frozen=True)
class Waiting:
    """The whole sweep is waiting, for example for ``starting Ray``."""

    reason: str


#: The end of a run.
Outcome = Done | Failed | Lost | Stopped
Event = Started | Progress | Outcome | Waiting
Report = Callable[[Event], None]
