"""A running sweep on a terminal: a live display below the lines, or only lines without a terminal."""

import logging
import sys
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

from eman.sweeps.run.events import Done, Event, Failed, Lost, Stopped, Waiting
from eman.sweeps.run.state import STATUSES, SweepState
from eman.sweeps.view.text import duration

_COLOURS = {"done": "green", "running": "cyan", "failed": "red"}

#: Approximate number of lines printed for all evaluations, which are many and short.
_EVALUATION_LINES = 12


class Terminal:
    """Shows a running sweep. Use it as a context manager and call :meth:`show` with every event.

    ``console`` is standard error by default, which keeps standard output for tables.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._live: Live | None = None
        self._waits: set[str] = set()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, state: SweepState, event: Event) -> None:
        """Show an event after it has been applied to the state."""
        try:
            if self._live is None and self.console.is_terminal:
                self._live = Live(
                    get_renderable=lambda: picture(state, self.console),
                    console=self.console,
                    refresh_per_second=2,
                    transient=True,
                )
                self._live.start()
            if isinstance(event, Waiting):
                if event.reason in self._waits:  # print it only once
                    return
                self._waits.add(event.reason)
            if line := line_of(state, event):
                self.say(line)
        except OSError as error:  # the terminal was closed; the sweep continues
            logging.getLogger("eman").debug("cannot write to the terminal: %s", error)

    def say(self, text: str) -> None:
        """Print a line, wrapped at words on a terminal and whole in a file."""
        self.console.print(text, markup=False, soft_wrap=not self.console.is_terminal)


def line_of(state: SweepState, event: Event) -> str:
    """Return an event as a line; empty for one that needs none."""
    if isinstance(event, Waiting):
        return event.reason
    training = event.key in state.sweep.trainings
    ended, total = state.ended(trainings=training), len(state.sweep.trainings if training else state.sweep.evaluations)
    head = f"[{ended}/{total}{_left(state)}] {state.titles[event.key]}"
    match event:
        case Failed():
            return f"{head}: failed: {event.reason}"
        case Stopped():
            return f"{head}: stopped {event.reason}"
        case Lost() if event.reason:
            return f"{head}: {event.reason}"
        case Done() if event.at >= state.launched and training:
            return f"{head}: done in {duration(event.seconds)}"
        case Done() if event.at >= state.launched:
            return f"{head}: done" if ended == total or ended % max(1, total // _EVALUATION_LINES) == 0 else ""
    return ""


def _left(state: SweepState, now: float | None = None) -> str:
    left = state.seconds_left(now)
    return "" if left is None else f", about {duration(left)} left"


def summary(state: SweepState) -> str:
    counts = state.count()
    counted = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return f"{counted}, {100 * state.share():.0f} %{_left(state) if counts['running'] else ''}"


def picture(state: SweepState, console: Console) -> RenderableType:
    """Return a sweep's current state, fitted to the size of a terminal."""
    with state.lock:
        now = time.time()
        parts: list[RenderableType] = [Text(), _overall(state, now), _counts(state)]
        if state.waiting_for:
            waiting = Progress(SpinnerColumn(), TextColumn("{task.description}"), auto_refresh=False)
            waiting.add_task(state.waiting_for)
            parts += [Text(), waiting.get_renderable()]
        if running := state.running():
            parts += [Text(), _running(state, running, now, console)]
        best = [f"{b.method}: {b.metric} {b.value:.1f} ({b.title})" for b in state.best()]
        if best:
            parts += [Text("\nbest so far on held-out images", "dim"), *(_line(line) for line in best)]
        if state.warning:
            parts += [Text(), _line(f"last warning  {state.warning}", "yellow")]
        return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, overflow="ellipsis", no_wrap=True)


def _overall(state: SweepState, now: float) -> RenderableType:
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(None),
        TextColumn("{task.percentage:.0f} %  {task.fields[took]}"),
        expand=True,
        auto_refresh=False,
    )
    title, took = f"{state.sweep.name} · {state.sweep.profile.name}", duration(now - state.launched) + _left(state, now)
    bar.add_task(title, total=100, completed=round(100 * state.share(now)), took=took)
    return bar.get_renderable()


def _counts(state: SweepState) -> Table:
    grid, counts, line = Table.grid(padding=(0, 3)), state.count(), _line("")
    for status in STATUSES:
        if counts[status] or status == "done":
            line.append(" · " if line else "", "dim").append(f"{counts[status]} {status}", _COLOURS.get(status, ""))
    grid.add_row("trainings", line)
    if state.sweep.evaluations:
        grid.add_row("evaluations", f"{state.ended(trainings=False)} of {len(state.sweep.evaluations)}")
    speed = sum(state.runs[key].metrics.get("train/images_per_second", 0.0) for key in state.running().values())
    if speed:
        grid.add_row("throughput", f"{speed:,.0f} images/s")
    return grid


def _running(state: SweepState, running: dict[str, str], now: float, console: Console) -> RenderableType:
    rows = max(3, console.height - 18)
    bars = Progress(
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(12),
        TextColumn("{task.fields[detail]}", justify="right", table_column=Column(no_wrap=True)),
        expand=True,
        auto_refresh=False,
    )
    for title, key in list(running.items())[:rows]:
        spec, run = state.sweep.trainings.get(key), state.runs[key]
        if spec is None:  # evaluations do not report progress
            bars.add_task(title, total=None, detail="")
            continue
        speed, epochs = run.metrics.get("train/images_per_second"), spec.optim.epochs
        detail = f"epoch {min(int(run.share * epochs + 1e-3) + 1, epochs)}/{epochs}"
        detail = detail + (f"  {speed:,.0f} images/s" if speed else "") if run.is_training else "loading data"
        bars.add_task(title, total=100, completed=round(100 * run.share_at(now)), detail=detail)
    more = [_line(f"and {len(running) - rows} more", "dim")] if len(running) > rows else []
    return Group(bars.get_renderable(), *more)
