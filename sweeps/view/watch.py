"""``eman status --watch``: a sweep that runs elsewhere, followed by what the store holds."""

import sys
import time

from rich.console import Console

from eman.evaluation.results.tables import Results
from eman.platform.store.store import SWEEP, Record, Store
from eman.sweeps.view.live import STATES, Board, Screen, View, duration, picture
from eman.sweeps.view.status import planned_sweep


def watch(store: Store, every: float = 5.0, console: Console | None = None) -> None:
    """Follows the sweeps that are running, the newest first, until none is.

    Args:
        store: Where they are.
        every: Seconds between two looks at the store.
        console: Where to show it: a live view on a terminal, a line for each change elsewhere.

    Raises:
        UserError: The store does not answer, or another version of this project runs the sweep.
    """
    console = console or Console(file=sys.stdout, highlight=False)
    followed: set[str] = set()
    while True:
        running = [r for r in store.records(SWEEP) if r.status == "running" and r.run_id not in followed]
        if not running:
            break
        followed.add(running[0].run_id)
        board = Board(planned_sweep(running[0]), float(running[0].tags["eman.launched"]))
        _follow(store, running[0], board, every, console)
    if not followed:
        _say(console, "no sweep is running; `eman status` lists those of the past.")


def _follow(store: Store, record: Record, board: Board, every: float, console: Console) -> None:
    """One sweep to its end."""
    board.read(Results.read(store))
    screen = None
    if console.is_terminal:
        screen = Screen(console, lambda: picture(board, console), board.warn)
        screen.start()
    else:
        _say(console, f"{record.name} ({record.key[:8]}): {_state(board.view())}")
    try:
        while record.status == "running":
            time.sleep(every)
            before = _lines(board)
            board.read(Results.read(store))
            [record] = [r for r in store.records(SWEEP, record.key) if r.run_id == record.run_id]
            if screen is None:
                for line in [line for line in _lines(board) if line not in before]:
                    _say(console, f"[{_state(board.view())}] {line}")
    finally:
        if screen is not None:
            screen.stop()
    ended = {"done": "has ended", "missing": "was interrupted; the same command continues it"}
    _say(console, f"{record.name} ({record.key[:8]}) {ended.get(record.status, record.status)}: {_state(board.view())}")


def _lines(board: Board) -> list[str]:
    """What there is to say of single runs."""
    lines = [
        f"{board.sweep.titles[key]}: {state}"
        for key, state in board.states.items()
        if state in ("running", "done", "failed")
    ]
    over = len(board.over)
    return [
        *lines,
        *([f"evaluations: {over} of {len(board.sweep.evaluations)}"] if over else []),
        *([board.warning] if board.warning else []),
    ]


def _state(view: View) -> str:
    counts = ", ".join(f"{view.states[state]} {state}" for state in STATES if view.states[state])
    left = "" if view.left is None or not view.states["running"] else f", about {duration(view.left)} left"
    return f"{counts}, {100 * view.share:.0f} %{left}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
