"""Ray Tune callback that passes on the events of trials. This module imports Ray."""

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Started
from eman.sweeps.run.interrupt import Interruption


class Follow(Callback):
    """Pass on the events of trials. Tune pickles its callbacks; this one pickles without its state.

    Args:
        interruption: Stops the sweep on a signal.
        emit: Called with every event.
        resolve_lost: Looks up the outcome of a run whose trial ended without one.
    """

    def __init__(
        self, interruption: Interruption, emit: Callable[[Event], None], resolve_lost: Callable[[Lost], Outcome]
    ) -> None:
        self.interruption, self.emit, self.resolve_lost = interruption, emit, resolve_lost
        self.open: dict[str, dict[str, None]] = {}  # runs without an outcome, by trial

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.open[trial.trial_id] = dict.fromkeys(trial.config["job"].keys)
        for key in self.open[trial.trial_id]:
            self.emit(Started(key))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.interruption.check()
        event = result.get("event")
        waiting = self.open[trial.trial_id]
        if event is None or event.key not in waiting:  # restarted workers repeat events
            return
        if isinstance(event, Done | Failed | Lost):
            del waiting[event.key]
            event = self.resolve_lost(event) if isinstance(event, Lost) else event
        self.emit(event)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        for key in self.open.pop(trial.trial_id, {}):
            self.emit(self.resolve_lost(Lost(key, "its process died")))

    on_trial_error = on_trial_complete
