"""`eman status --watch`: follow a sweep that another process runs, by reading the store."""

import sys
import time

from rich.console import Console

from eman.evaluation.results.values import Results
from eman.platform.store.records import SWEEP, Record
from eman.platform.store.store import Store
from eman.sweeps.run.events import Waiting
from eman.sweeps.run.state import SweepState
from eman.sweeps.view.status import launched, planned_sweep
from eman.sweeps.view.terminal import Terminal, summary

_ENDINGS = {"done": "has ended", "missing": "was interrupted; the same command continues it"}

#: Number of the newest interrupted sweeps to check: one that was marked lost may still run.
_INTERRUPTED = 10


def watch(store: Store, every: float = 5.0, terminal: Terminal | None = None) -> None:
    """Follow the running sweeps, newest first, until none is running, reading the store every ``every`` seconds.

    Raises:
        UserError: The store cannot be reached, or another version of this project runs the sweep.
    """
    terminal = terminal or Terminal(Console(file=sys.stdout, highlight=False))
    followed: set[str] = set()
    while True:
        store.settle_lost()
        # A sweep that was marked lost, for example while its machine slept, may still run.
        records = [*store.records(SWEEP, status="RUNNING"), *store.records(SWEEP, status="KILLED", limit=_INTERRUPTED)]
        running = [r for r in records if r.status == "running" and r.run_id not in followed]
        if not running:
            break
        followed.add(running[0].run_id)
        with terminal:
            _follow(store, running[0], every, terminal)
    if not followed:
        terminal.say("no sweep is running; `eman status` lists past ones.")


def _follow(store: Store, record: Record, every: float, terminal: Terminal) -> None:
    state = SweepState(planned_sweep(record), launched(record))
    name = f"{record.name} ({record.key[:8]})"
    for event in state.changes(Results.read(store, state.sweep.tables)):
        state.apply(event)
    terminal.show(state, Waiting(""))
    terminal.say(f"{name}: {summary(state)}")
    while record.status == "running":
        time.sleep(every)
        for event in state.changes(Results.read(store, state.sweep.tables)):
            state.apply(event)
            terminal.show(state, event)
        before, [record] = record, [r for r in store.records(SWEEP, record.key) if r.run_id == record.run_id]
        if record.tags.get("eman.request") != before.tags.get("eman.request"):  # a search has chosen more points
            state.extend(planned_sweep(record))
    terminal.say(f"{name} {_ENDINGS.get(record.status, record.status)}: {summary(state)}")
