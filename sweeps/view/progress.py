"""How far a sweep is, for those who launched it: a live view on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from eman.sweeps.view.live import Board, Screen, duration, picture

_SETTLING_SECONDS = 8.0


class Progress:
    """Follows runs by their work and tells how much time is left.

    Args:
        quiet: Show nothing.
        console: Where to; standard error by default, so that tables on standard output stay clean.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.board: Board | None = None
        self.screen: Screen | None = None
        self.keys: dict[str, str] = {}
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
        if not self.quiet and work and self.screen is None:
            self.console.print(f"{phase}: {len(work)} to do")

    def follow(self, board: Board) -> None:
        """Shows a sweep's board from now on, if there is a terminal to show it on."""
        self.board = board
        self.keys = {title: key for key, title in board.sweep.titles.items()}
        if self.quiet or not self.console.is_terminal:
            return
        self.screen = Screen(self.console, lambda: picture(board, self.console), board.warn)
        self.screen.start()

    @property
    def watched(self) -> bool:
        """Whether there is a live view."""
        return self.screen is not None

    def begin(self, name: str) -> None:
        """A run begins."""
        if self.board is not None:
            self.board.begin(self.keys.get(name), name)

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
        self._tell_board(name, result)
        if self.quiet:
            return
        if finished and (self.done % self.every == 0 or self.done == len(self.work) or result["status"] != "done"):
            self.console.print(f"[{state}] {name}: {_outcome(result)}", markup=False, soft_wrap=True)

    def _tell_board(self, name: str, result: Mapping[str, Any]) -> None:
        key = self.keys.get(name)
        if self.board is None:
            return
        if "status" in result:
            self.board.end(key, name, result)
        elif key is not None:
            number, epochs = result["epoch"], self.board.sweep.trainings[key].epochs
            metrics = {n: value for n, value in result.items() if "/" in n and isinstance(value, float)}
            self.board.advance(key, number / epochs, metrics)

    def say(self, text: str) -> None:
        """A line."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Takes the live view away."""
        if self.screen is not None:
            self.screen.stop()
            self.screen = None


def _outcome(result: Mapping[str, Any]) -> str:
    if result["status"] != "done":
        return f"{result['status']}: {result['reason']}"
    if "said" in result:
        return str(result["said"])
    return f"done in {duration(result['seconds'])}"
