"""What a running sweep looks like: a board of its runs, and how a terminal shows it.

Two fill a board: the process that drives the sweep, from what its trials report, and ``eman status --watch``, from what
the store holds.
"""

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eman.evaluation.measure import headline
from eman.evaluation.protocols.registry import together
from eman.evaluation.results.tables import Results, Wanted
from eman.sweeps.plan import Sweep
from eman.sweeps.work import evaluation_work, steps, work
from eman.trainers.methods.registry import method_named

#: States of a training, in the order in which they are shown. Reused: it was done before the sweep was launched.
STATES = ("done", "running", "waiting", "failed", "reused")

#: Seconds between two pictures.
_FRAME_SECONDS = 0.5

#: Seconds before anything is said about the time left: start-up would be taken for work.
_SETTLING_SECONDS = 8.0

_COLOURS = {"done": "green", "running": "cyan", "failed": "red"}


def duration(seconds: float) -> str:
    """For a person: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Running:
    """A run that some process is at.

    Attributes:
        title: Its name.
        share: Which part of it is done; ``None``: nobody knows.
        epochs: Of how many, for example ``3/8``.
        left: Estimated seconds until its end.
        speed: Images per second.
        result: Its latest result in words, for example ``knn/top1 45.2``.
    """

    title: str
    share: float | None
    epochs: str = ""
    left: float | None = None
    speed: float | None = None
    result: str = ""


@dataclass(frozen=True)
class Best:
    """The best result of a method so far; ``run`` is the run's name without the method."""

    method: str
    metric: str
    value: float
    run: str


@dataclass(frozen=True)
class View:
    """A sweep at a moment.

    Attributes:
        title: Its name and profile.
        states: Number of trainings by state (:data:`STATES`).
        evaluations: Those that are over, and all.
        share: Which part of the work is done.
        seconds: Since it was launched.
        left: Estimated seconds until its end.
        running: What is being done now.
        best: By method.
        throughput: Images per second over all running runs.
        warning: The last one.
    """

    title: str
    states: Mapping[str, int]
    evaluations: tuple[int, int]
    share: float
    seconds: float
    left: float | None
    running: tuple[Running, ...] = ()
    best: tuple[Best, ...] = ()
    throughput: float = 0.0
    warning: str = ""


class Board:
    """How far every run of a sweep is. Several threads may use it.

    Args:
        sweep: The sweep.
        launched: When it was, in seconds since the epoch; what was done before counts as reused.
    """

    def __init__(self, sweep: Sweep, launched: float) -> None:
        self.sweep, self.launched = sweep, launched
        self.lock = threading.RLock()
        self.states = dict.fromkeys(sweep.trainings, "waiting")
        self.shares: dict[str, tuple[float, float]] = {}  # of running trainings: share done, and when
        self.metrics: dict[str, Mapping[str, float]] = {}  # of trainings
        self.results: dict[str, Mapping[str, float]] = {}  # of evaluations that are done
        self.over: set[str] = set()  # evaluations that are done, or failed
        self.before: set[str] = set()  # trainings and evaluations that were over when the sweep was launched
        self.evaluating: dict[str, None] = {}  # titles
        self.began = float("inf")  # when its first run did: what was before is start-up, not work
        self.warning = ""
        self._work = {key: work(spec) for key, spec in sweep.trainings.items()}
        for group in together(list(sweep.evaluations.values())):
            whole = evaluation_work(group, sweep.trainings[group[0].run])
            self._work |= {spec.key: whole / len(group) for spec in group}

    def read(self, results: Results) -> None:
        """Takes over what a store holds."""
        with self.lock:
            for key, spec in self.sweep.trainings.items():
                status, _ = results.state(spec)
                record = results.trainings.get(key)
                old = status == "done" and record is not None and record.end < self.launched
                if old:
                    self.before.add(key)
                self.states[key] = "reused" if old else "waiting" if status == "missing" else status
                if record is not None and status in ("done", "running"):
                    self.metrics[key] = record.metrics
                    beat = float(record.tags.get("eman.heartbeat", 0))
                    self.shares[key] = (float(record.tags.get("eman.share", 0)), beat)
            records = [r for key in self.sweep.evaluations if (r := results.evaluations.get(key)) is not None]
            self.evaluating = {}
            for record in records:
                if record.status == "done":
                    self.results[record.key] = record.metrics
                if record.status in ("done", "failed"):
                    self.over.add(record.key)
                    if record.end < self.launched:
                        self.before.add(record.key)
                elif record.status == "running":
                    self.evaluating[record.name] = None
            mine = [r for key in self.sweep.trainings if (r := results.trainings.get(key)) is not None]
            starts = [record.start for record in [*mine, *records] if record.start >= self.launched]
            self.began = min([self.began, *starts])
            failed = [r for r in [*mine, *records] if r.status == "failed" and r.end >= self.launched]
            if failed:
                last = max(failed, key=lambda record: record.end)
                self.warning = f"{last.name}: {last.reason}"

    def wait_for(self, keys: Iterable[str]) -> None:
        """These trainings are to be carried out, whatever the store says of them."""
        with self.lock:
            for key in keys:
                self.states[key] = "waiting"

    def begin(self, key: str | None, title: str) -> None:
        """A training with this key, or an evaluation without one, begins."""
        with self.lock:
            if key is None:
                self.evaluating[title] = None
            else:
                self.states[key] = "running"
                self.shares[key] = (0.0, time.time())
                self.metrics.pop(key, None)
            self.began = min(self.began, time.time())

    def advance(self, key: str, share: float, metrics: Mapping[str, Any]) -> None:
        """A training has come so far."""
        with self.lock:
            if share > self.shares.get(key, (0.0, 0.0))[0]:
                self.shares[key] = (share, time.time())
            self.metrics[key] = {**self.metrics.get(key, {}), **metrics}

    def end(self, key: str | None, title: str, outcome: Mapping[str, Any]) -> None:
        """It ends with such an outcome: a training, or evaluations by key."""
        with self.lock:
            status = outcome["status"]
            if key is None:
                self.evaluating.pop(title, None)
                for one, found in outcome.get("outcomes", {}).items():
                    if found["status"] in ("done", "failed"):
                        self.over.add(one)
                    if "metrics" in found:
                        self.results[one] = found["metrics"]
            else:
                self.states[key] = status if status in ("done", "failed") else "waiting"
            if status in ("failed", "crashed"):
                self.warning = f"{title}: {outcome['reason']}"

    def warn(self, text: str) -> None:
        """Something to know."""
        with self.lock:
            self.warning = text

    def view(self, now: float | None = None) -> View:
        """The board at a moment."""
        now = now or time.time()
        with self.lock:
            running = {key: self._running(key, now) for key, state in self.states.items() if state == "running"}
            done = sum(self._work[key] * self._share(key, running) for key in self._work)
            total, before = sum(self._work.values()), sum(self._work[key] for key in self.before)
            spent, fresh, left = now - self.began, done - before, None
            if spent >= _SETTLING_SECONDS and total > before and fresh >= 0.02 * (total - before):
                left = spent * (total - done) / fresh
            return View(
                f"{self.sweep.name} · {self.sweep.profile.name}",
                {state: sum(found == state for found in self.states.values()) for state in STATES},
                (len(self.over), len(self.sweep.evaluations)),
                done / total if total else 1.0,
                now - self.launched,
                left,
                (*running.values(), *(Running(title, None) for title in self.evaluating)),
                tuple(self._best()),
                sum(run.speed or 0.0 for run in running.values()),
                self.warning,
            )

    def _share(self, key: str, running: Mapping[str, Running]) -> float:
        if key in running:
            return running[key].share or 0.0
        return float(key in self.over or self.states.get(key) in ("done", "reused", "failed"))

    def _running(self, key: str, now: float) -> Running:
        spec, metrics = self.sweep.trainings[key], self.metrics.get(key, {})
        share, since = self.shares.get(key, (0.0, now))
        speed = metrics.get("train/images_per_second")
        usual = speed or self._usual_speed(key)
        seconds = steps(spec) * spec.batch / usual if usual else None
        shown = min(share + max(now - since, 0.0) / seconds, 0.99) if seconds else share  # it has gone on since
        name = next((n for n in (headline(method_named(spec.method)), "train/loss") if n in metrics), "")
        result = f"{name} {metrics[name]:.4g}" if name else ""
        left = None if seconds is None else (1.0 - shown) * seconds
        return Running(
            self.sweep.titles[key], shown, f"{int(share * spec.epochs + 1e-3)}/{spec.epochs}", left, speed, result
        )

    def _usual_speed(self, key: str) -> float | None:
        """Median speed of the same method's runs, for a run that has not told its own yet."""
        method, name = self.sweep.trainings[key].method, "train/images_per_second"
        found = [m[name] for k, m in self.metrics.items() if name in m and self.sweep.trainings[k].method == method]
        return statistics.median(found) if found else None

    def _best(self) -> Iterator[Best]:
        """By method: of the numbers that the tables want the first that there is; before, what runs are watched by."""
        found: dict[str, dict[str, list[tuple[float, str]]]] = {}
        for item in dict.fromkeys(self.sweep.wanted):
            value = self._value(item)
            of_method = found.setdefault(item.run.method, {}).setdefault(item.metric, [])
            if value is not None:
                of_method.append((value, item.run.key))
        for method, by_metric in found.items():
            name = headline(method_named(method))
            by_metric[name] = by_metric.get(name, []) + [
                (metrics[name], key)
                for key, metrics in self.metrics.items()
                if name in metrics and self.sweep.trainings[key].method == method
            ]
            metric = next((metric for metric, values in by_metric.items() if values), None)
            if metric is not None:
                value, key = max(by_metric[metric])
                run = self.sweep.titles[key].partition(" · ")[2]
                yield Best(method_named(method).title, metric, value, run)

    def _value(self, item: Wanted) -> float | None:
        if not item.evaluations:
            return self.metrics.get(item.run.key, {}).get(item.metric)
        done = [self.results[spec.key] for spec in item.evaluations if spec.key in self.results]
        return max(done, key=lambda found: found.get(item.select_by, 0.0)).get(item.metric) if done else None


# The picture ----------------------------------------------------------------------------------------------------------

#: Narrower than this, the latest results of running runs are left out: their names matter more.
_WIDE = 90


def render(view: View, width: int = 100, rows: int = 10) -> RenderableType:
    """A view for a terminal.

    Args:
        view: What to show.
        width: Of the terminal, in characters.
        rows: Most running runs that are listed.
    """
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    left = "" if view.left is None else f", about {duration(view.left)} left"
    took = f"{100 * view.share:.0f} %   {duration(view.seconds)}{left}"
    head.add_row(Text(view.title, "bold"), _bar(view.share), took)
    parts: list[RenderableType] = [Text(), head, _counts(view)]
    if view.running:
        parts += [Text(), _running_table(view.running, rows, wide=width >= _WIDE)]
    if view.best:
        parts += [Text(), _best_table(view.best)]
    if view.warning:
        parts += [Text(), Text.assemble(("last warning   ", "yellow"), view.warning, overflow="ellipsis", no_wrap=True)]
    return Group(*parts)


def _bar(share: float, width: int | None = None) -> ProgressBar:
    return ProgressBar(total=1.0, completed=share, width=width, complete_style="cyan", finished_style="green")


def _counts(view: View) -> Table:
    grid = Table.grid(padding=(0, 3))
    line = Text(no_wrap=True, overflow="ellipsis")
    for n, state in enumerate(STATES):
        count = view.states.get(state, 0)
        line.append(" · " if n else "", "dim")
        line.append(f"{count} {state}", _COLOURS.get(state, "") if count else "dim")
    grid.add_row("trainings", line)
    over, total = view.evaluations
    if total:
        grid.add_row("evaluations", f"{over} of {total}")
    if view.throughput:
        grid.add_row("throughput", f"{view.throughput:,.0f} images/s")
    return grid


def _running_table(running: tuple[Running, ...], rows: int, *, wide: bool) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    heads = ("running", "", "epochs", "left", "images/s", *(["latest"] if wide else []))
    for _ in heads[1:]:
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row(*(Text(head, "dim") for head in heads))
    for run in running[:rows]:
        cells = (
            Text() if run.share is None else _bar(run.share, 12),
            run.epochs,
            "" if run.left is None else duration(run.left),
            "" if run.speed is None else f"{run.speed:,.0f}",
            run.result,
        )
        grid.add_row(Text(run.title), *cells[: len(heads) - 1])
    if len(running) > rows:
        grid.add_row(Text(f"and {len(running) - rows} more", "dim"))
    return grid


def _best_table(best: tuple[Best, ...]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "left"):
        grid.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    grid.add_row(*(Text(head, "dim") for head in ("best so far", "metric", "", "run")))
    for found in best:
        grid.add_row(found.method, found.metric, Text(f"{found.value:.1f}", "bold"), found.run)
    return grid


def picture(board: Board, console: Console) -> RenderableType:
    """A board as it is now, for this terminal."""
    return render(board.view(), console.width, max(3, console.height - 20))


class Screen:
    """A picture at the lower edge of a terminal, drawn anew twice a second; all else scrolls above it.

    What this process writes to the terminal past the console, from C++ also, would tear the picture: meanwhile it goes
    to a file, from which it is printed line by line. Warnings of this project are handed to ``warn`` as well.

    Args:
        console: The terminal.
        draw: Makes the picture.
        warn: Told of warnings.
    """

    def __init__(self, console: Console, draw: Callable[[], RenderableType], warn: Callable[[str], None]) -> None:
        self.console, self.draw = console, draw
        self.live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._go_on, name="eman-screen", daemon=True)
        self.handler = _Told(self._told)
        self.warn = warn
        self.aside: IO[bytes] | None = None
        self.kept: dict[int, int] = {}  # descriptors of the terminal, and their copies
        self.file, self.read = console.file, 0

    def start(self) -> None:
        """Shows the first picture."""
        self._divert()
        logging.getLogger("eman").addHandler(self.handler)
        self.live.start()
        self.thread.start()

    def stop(self) -> None:
        """Takes the picture away, and gives the terminal back."""
        self.ended.set()
        self.thread.join(timeout=5.0)
        self.live.stop()
        logging.getLogger("eman").removeHandler(self.handler)
        self._restore()

    def _go_on(self) -> None:
        while True:
            self._pass_on()
            self.live.update(self.draw(), refresh=True)
            if self.ended.wait(_FRAME_SECONDS):
                return

    def _told(self, text: str) -> None:
        self.warn(text)
        self.console.print(text, markup=False, soft_wrap=True)

    def _divert(self) -> None:
        try:
            mine = self.file.fileno()
        except (AttributeError, OSError, ValueError):  # not a real file
            return
        if mine not in (1, 2):
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.aside = tempfile.TemporaryFile()  # noqa: SIM115 - until stop()
        for number in (1, 2):
            if os.isatty(number):
                self.kept[number] = os.dup(number)
                os.dup2(self.aside.fileno(), number)
        if mine in self.kept:
            self.console.file = open(self.kept[mine], "w", encoding=self.console.encoding, closefd=False)  # noqa: SIM115

    def _pass_on(self, *, all_: bool = False) -> None:
        """Prints what others have written since; half a line waits for its other half."""
        if self.aside is None:
            return
        found = os.pread(self.aside.fileno(), 1 << 16, self.read)
        whole = found if all_ else found[: found.rfind(b"\n") + 1]
        self.read += len(whole)
        if whole:
            text = Text.from_ansi(whole.decode(errors="replace").rstrip("\n"))
            self.console.print(text, soft_wrap=True)

    def _restore(self) -> None:
        if self.aside is None:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        while os.fstat(self.aside.fileno()).st_size > self.read:
            self._pass_on(all_=True)
        if self.console.file is not self.file:
            self.console.file.flush()
        self.console.file = self.file
        for number, copy in self.kept.items():
            os.dup2(copy, number)
            os.close(copy)
        self.kept = {}
        self.aside.close()
        self.aside = None


class _Told(logging.Handler):
    """Hands on warnings of this project."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(RecursionError):
            self.tell(record.getMessage())
