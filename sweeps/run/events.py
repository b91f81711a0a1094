"""Events: changes in the state of a sweep's runs.

Trials send them to the process that launched the sweep; `eman status --watch` derives the same events from the store.
:class:`~eman.sweeps.run.state.SweepState` turns them into the state of the sweep.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """A process has started the run with this key."""

    key: str
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Progress:
    """Progress of a training.

    Attributes:
        key: The run.
        share: Completed share, from 0 to 1.
        metrics: Values of the last epoch; empty in the middle of an epoch.
    """

    key: str
    share: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Done:
    """The run is finished.

    Attributes:
        key: The run.
        seconds: Time in the training loop.
        metrics: Final values.
    """

    key: str
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Failed:
    """The run failed for this reason."""

    key: str
    reason: str
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Lost:
    """The run ended without an outcome: its process died, it was interrupted, or another process is running it.

    Attributes:
        key: The run.
        reason: Why, if a user should see it.
    """

    key: str
    reason: str = ""
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Waiting:
    """The whole sweep is waiting, for example for ``starting Ray``."""

    reason: str


#: The end of a run.
Outcome = Done | Failed | Lost
Event = Started | Progress | Outcome | Waiting
Report = Callable[[Event], None]
