"""Events: everything that happens to the runs of a sweep, as one stream.

Trials send them to the process that drives the sweep; `eman status --watch` derives the same ones from the store.
:class:`~eman.sweeps.run.state.SweepState` turns them into the state of the sweep.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """A process begins the run with this key."""

    key: str
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Progress:
    """A training has come this far.

    Attributes:
        key: The run.
        share: Part that is done, from 0 to 1.
        metrics: Values of the last epoch; empty in the middle of an epoch.
    """

    key: str
    share: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Done:
    """The run has its result.

    Attributes:
        key: The run.
        seconds: Spent in the training loop.
        metrics: Final values.
    """

    key: str
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Failed:
    """The run gives no result, for this reason."""

    key: str
    reason: str
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Lost:
    """The run ended without an outcome: its process died, it was interrupted, or another launch is running it.

    Attributes:
        key: The run.
        reason: Why, if anybody needs to know.
    """

    key: str
    reason: str = ""
    at: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True)
class Waiting:
    """The sweep as a whole waits for something, for example ``starting Ray``."""

    reason: str


#: How a run ends.
Outcome = Done | Failed | Lost
Event = Started | Progress | Outcome | Waiting
Report = Callable[[Event], None]
