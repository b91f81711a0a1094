"""How far a sweep is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_SETTLING_SECONDS = 8.0


def duration(seconds: float) -> str:
    """For a person: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """Follows runs by their work and tells how much time is left.

    Args:
        quiet: Show nothing.
        console: Where to; standard error by default, so that tables on standard output stay clean.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.bars: Bars | None = None
        self.task: TaskID | None = None
        self._reset("", {})

    def _reset(self, phase: str, work: Mapping[str, float]) -> None:
        self.phase, self.work = phase, dict(work)
        self.shares = dict.fromkeys(work, 0.0)
        self.done = 0
        self.started = time.monotonic()

    def start(self, phase: str, work: Mapping[str, float], *, lines: int | None = None) -> None:
        """A new phase with these runs and their relative work; ``lines`` lines or so tell of it, else one a run."""
        self._reset(phase, work)
        self.every = max(1, len(work) // lines) if lines else 1
        if self.quiet or not work:
            return
        if self.console.is_terminal:
            if self.bars is None:
                self.bars = Bars(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.fields[state]}"),
                    TimeElapsedColumn(),
                    console=self.console,
                )
                self.bars.start()
            self.task = self.bars.add_task(phase, total=sum(work.values()), state=f"0/{len(work)}")
        else:
            self.console.print(f"{phase}: {len(work)} to do")

    def left(self) -> float | None:
        """Estimated seconds until the end of the phase."""
        if time.monotonic() - self.started < _SETTLING_SECONDS:
            return None  # start-up would be taken for work
        done = sum(self.work[name] * share for name, share in self.shares.items())
        total = sum(self.work.values())
        return None if done < 0.02 * total else (time.monotonic() - self.started) * (total - done) / done

    def advance(self, name: str, share: float, result: Mapping[str, Any]) -> None:
        """A run has come so far."""
        if name not in self.shares:
            return
        self.shares[name] = share
        finished = "status" in result
        self.done += finished
        left = self.left()
        state = f"{self.done}/{len(self.work)}" + (f", about {duration(left)} left" if left is not None else "")
        if self.quiet:
            return
        if self.bars is not None and self.task is not None:
            completed = sum(self.work[n] * s for n, s in self.shares.items())
            self.bars.update(self.task, completed=completed, state=state)
        if finished and (self.done % self.every == 0 or self.done == len(self.work) or result["status"] != "done"):
            self.console.print(f"[{state}] {name}: {_outcome(result)}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Takes the bar away."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


def _outcome(result: Mapping[str, Any]) -> str:
    if result["status"] != "done":
        return f"{result['status']}: {result['reason']}"
    if "said" in result:
        return str(result["said"])
    return f"done in {duration(result['seconds'])}"
