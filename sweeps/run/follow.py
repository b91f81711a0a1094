"""Ray Tune's callback that turns what trials report into events. It imports Ray."""

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from eman.sweeps.run.events import Done, Event, Failed, Lost, Outcome, Started
from eman.sweeps.run.interrupt import Interruption


class Follow(Callback):
    """Pass on what the trials report. Tune pickles its callbacks; this one is pickled empty.

    Args:
        interruption: Signals to obey.
        tell: Called with every event.
        settle: Finds out what became of a run whose trial ended without an outcome.
    """

    def __init__(
        self, interruption: Interruption, tell: Callable[[Event], None], settle: Callable[[Lost], Outcome]
    ) -> None:
        self.interruption, self.tell, self.settle = interruption, tell, settle
        self.open: dict[str, dict[str, None]] = {}  # runs without an outcome, by trial

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.open[trial.trial_id] = dict.fromkeys(trial.config["job"].keys)
        for key in self.open[trial.trial_id]:
            self.tell(Started(key))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.interruption.check()
        event = result.get("event")
        waiting = self.open[trial.trial_id]
        if event is None or event.key not in waiting:  # restarted workers repeat what is known
            return
        if isinstance(event, Done | Failed | Lost):
            del waiting[event.key]
            event = self.settle(event) if isinstance(event, Lost) else event
        self.tell(event)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        for key in self.open.pop(trial.trial_id, {}):
            self.tell(self.settle(Lost(key, "its process died")))

    on_trial_error = on_trial_complete
