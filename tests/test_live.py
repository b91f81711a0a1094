"""The live view: of a board that trials fill, of one that the store fills, and what a terminal shows of it."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from eman.cli import main
from eman.evaluation.results.tables import Results
from eman.platform.errors import UserError
from eman.platform.store.store import EVALUATION, SILENT_SECONDS, SWEEP, TRAINING, RunLog, Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.launch import Options, Report, _Launch
from eman.sweeps.view import watch
from eman.sweeps.view.live import Best, Board, Running, View, render
from eman.sweeps.view.progress import Progress
from eman.sweeps.view.status import found_sweep, planned_sweep

#: Making the store is not what these tests are about.
pytestmark = pytest.mark.usefixtures("store_file")

SWEEP_OF_TWO = plan(
    SweepRequest(profile="smoke", methods=["fixmatch", "moco"], schemes=["bn", "eman"], linear_lr=[1.0, 2.0])
)
VIEW = View(
    "table1 · quick",
    {"done": 4, "running": 2, "waiting": 12, "failed": 1, "reused": 2},
    (3, 36),
    0.41,
    130.0,
    180.0,
    (
        Running("moco · BN / EMAN · seed 0", 0.5, "4/8", 20.0, 1920.0, "knn/top1 45.2"),
        Running("byol · BN / BN · seed 0 · linear · 10 % · 3 of lr", None),
    ),
    (Best("MoCo", "linear/10pct_top1", 71.5, "BN / BN · seed 0"),),
    1920.0,
    "byol · GN / GN: the loss is not finite in epoch 3",
)


def shown(view: View, width: int = 100, rows: int = 10) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    console.print(render(view, width, rows))
    return console.export_text()


def begun(store: Store, sweep: Sweep, launched: float | None = None) -> RunLog:
    tags = {"eman.request": sweep.request.model_dump_json(), "eman.launched": f"{launched or time.time():.3f}"}
    return store.begin(SWEEP, sweep.key, f"{sweep.name} · {sweep.profile.name}", params={}, tags=tags)


def trained(store: Store, sweep: Sweep, key: str) -> RunLog:
    return store.begin(TRAINING, key, sweep.titles[key], params={}, tags={})


def test_a_view_says_all_that_there_is_in_the_terminals_width() -> None:
    text = shown(VIEW)
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= 100 for line in lines)
    assert lines[1].startswith("table1 · quick  ━")
    assert lines[1].endswith("41 %   2 min, about 3 min left")
    assert "4 done · 2 running · 12 waiting · 1 failed · 2 reused" in text
    assert "evaluations   3 of 36" in text
    assert "throughput    1,920 images/s" in text
    [row] = [line for line in lines if line.startswith("moco · BN / EMAN · seed 0")]
    assert re.search(r"━+ +4/8 +20 s +1,920 +knn/top1 45.2$", row)
    assert any(line.startswith("byol · BN / BN · seed 0 · linear · 10 % · 3 of") for line in lines)
    assert re.search(r"MoCo +linear/10pct_top1 +71.5 +BN / BN · seed 0", text)
    assert lines[-1] == "last warning   byol · GN / GN: the loss is not finite in epoch 3"


def test_a_narrow_terminal_and_many_runs_leave_out_what_matters_least() -> None:
    text = shown(VIEW, width=60, rows=1)
    assert "knn/top1 45.2" not in text
    assert "and 1 more" in text
    assert all(len(line) <= 60 for line in text.splitlines())


def test_trials_fill_the_board() -> None:
    board = Board(SWEEP_OF_TWO, time.time() - 100)
    board.began = board.launched
    progress = Progress(quiet=True)
    progress.follow(board)
    fix, moco = (next(k for k, s in SWEEP_OF_TWO.trainings.items() if s.method == m) for m in ("fixmatch", "moco"))
    title = SWEEP_OF_TWO.titles
    progress.start("training", dict.fromkeys(title.values(), 1.0))
    progress.begin(title[fix])
    assert board.view().running[0].left is None  # nobody knows how fast it is
    progress.advance(
        title[fix], 0.33, {"share": 0.33, "epoch": 1, "train/images_per_second": 500.0, "accuracy/top1": 31.0}
    )
    progress.begin(title[moco])
    view = board.view()
    assert (view.states["running"], view.states["waiting"], view.throughput) == (2, 2, 500.0)
    assert view.best == (Best("FixMatch", "accuracy/top1", 31.0, title[fix].partition(" · ")[2]),)
    [run] = [run for run in view.running if run.title == title[fix]]
    assert (run.epochs, run.result) == (f"1/{SMOKE.run('fixmatch', 'bn').epochs}", "accuracy/top1 31")
    assert run.share is not None and run.share >= 0.5
    assert run.left is not None and run.left > 0
    progress.advance(title[fix], 1.0, {"share": 1.0, "status": "done", "reason": "", "seconds": 1.0})
    progress.advance(title[moco], 1.0, {"share": 1.0, "status": "failed", "reason": "the loss is not finite"})
    view = board.view()
    assert (view.states["done"], view.states["failed"], view.running) == (1, 1, ())
    assert view.warning == f"{title[moco]}: the loss is not finite"
    assert view.left is not None and 0.0 < view.share < 1.0


def test_a_run_whose_process_was_lost_waits_again() -> None:
    board = Board(SWEEP_OF_TWO, time.time())
    key = next(iter(SWEEP_OF_TWO.trainings))
    board.begin(key, "x")
    board.end(key, "x", {"status": "crashed", "reason": "its process was lost"})
    assert board.view().states["waiting"] == 4


def test_the_best_rate_is_that_of_the_held_out_images() -> None:
    board = Board(SWEEP_OF_TWO, time.time())
    [item] = [i for i in dict.fromkeys(SWEEP_OF_TWO.wanted) if i.run == SMOKE.run("moco", "eman")]
    board.begin(None, "linear")
    assert [run.title for run in board.view().running] == ["linear"]
    outcomes = {
        spec.key: {"status": "done", "metrics": {item.metric: test, item.select_by: held_out}}
        for spec, test, held_out in zip(item.evaluations, (90.0, 55.0), (50.0, 52.0), strict=True)
    }
    board.end(None, "linear", {"status": "done", "outcomes": outcomes})
    view = board.view()
    assert (view.evaluations, view.running) == ((2, 4), ())
    assert view.best == (Best("MoCo", item.metric, 55.0, "BN / EMAN · seed 0"),)


def test_the_store_fills_the_board_as_trials_do() -> None:
    store, sweep, now = Store(Workspace.from_environment()), SWEEP_OF_TWO, time.time()
    first, second, third, _ = sweep.trainings
    old = trained(store, sweep, first)
    old.finish({"test/top1": 50.0, "train/images_per_second": 400.0})
    launched = store.records(TRAINING, first)[0].end + 0.001
    time.sleep(0.01)
    trained(store, sweep, second).epoch(1, {"train/images_per_second": 300.0, "train/loss": 1.5}, 0.5)
    trained(store, sweep, third).fail("the loss is not finite in epoch 1")
    spec = next(iter(sweep.evaluations.values()))
    store.begin(EVALUATION, spec.key, "knn of something", params={}, tags={})
    board = Board(sweep, launched)
    board.read(Results.read(store))
    view = board.view()
    assert view.states == {"done": 0, "running": 1, "waiting": 1, "failed": 1, "reused": 1}
    assert view.running[0].epochs == "1/2"
    assert view.running[0].result == "train/loss 1.5"
    assert view.running[0].share is not None and view.running[0].share >= 0.5
    assert view.running[1].title == "knn of something"
    assert view.throughput == 300.0
    assert view.warning.endswith("the loss is not finite in epoch 1")
    assert view.best == (Best("FixMatch", "test/top1", 50.0, "BN / BN · seed 0"),)
    assert now < board.began < time.time()


def test_runs_of_several_workers_are_read_from_the_store_while_somebody_watches() -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    key = next(iter(sweep.trainings))
    trained(store, sweep, key).epoch(1, {"train/images_per_second": 300.0}, 0.5)
    board = Board(sweep, time.time())
    board.begin(key, sweep.titles[key])
    for watched in (False, True):
        console = Console(file=io.StringIO(), width=100, force_terminal=watched)
        progress = Progress(console=console)
        progress.follow(board)
        launch = _Launch(board, store, Options(), progress, Report())
        launch.silent = {key}
        launch.look()
        progress.stop()
        [run] = board.view().running
        assert (run.epochs, run.speed) == (("1/2", 300.0) if watched else ("0/2", None))


def test_where_there_is_no_terminal_there_are_lines() -> None:
    file = io.StringIO()
    progress = Progress(console=Console(file=file, width=200))
    progress.follow(Board(SWEEP_OF_TWO, time.time()))
    name = next(iter(SWEEP_OF_TWO.titles.values()))
    progress.start("training", {name: 1.0})
    progress.begin(name)
    progress.advance(name, 1.0, {"share": 1.0, "status": "done", "reason": "", "seconds": 3.0})
    progress.stop()
    assert file.getvalue().splitlines() == ["training: 1 to do", f"[1/1] {name}: done in 3 s"]


def steps_of(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """What happens in the store while a watcher sleeps."""
    left = list(steps)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: left.pop(0)())


def test_watching_tells_every_change_and_ends_with_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    parent = begun(store, sweep)
    first, second, *_ = sweep.trainings
    logs: list[RunLog] = []
    steps_of(
        monkeypatch,
        lambda: logs.append(trained(store, sweep, first)),
        lambda: (logs[0].finish({"test/top1": 50.0}), trained(store, sweep, second).fail("out of luck")),
        parent.finish,
    )
    file = io.StringIO()
    watch.watch(store, 1.0, Console(file=file, width=200))
    lines = file.getvalue().splitlines()
    title = sweep.titles
    assert lines[0] == f"grid · smoke ({sweep.key[:8]}): 4 waiting, 0 %"
    assert lines[1].endswith(f"{title[first]}: running")
    assert [line for line in lines if line.endswith(f"] {title[first]}: done")]
    assert [line for line in lines if line.endswith(f"] {title[second]}: out of luck")]
    assert lines[-1].startswith(f"grid · smoke ({sweep.key[:8]}) has ended: 1 done, 2 waiting, 1 failed, ")


def test_watching_on_a_terminal_shows_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    parent = begun(store, sweep)
    trained(store, sweep, next(iter(sweep.trainings)))
    real = time.sleep
    steps_of(monkeypatch, lambda: real(0.7), parent.finish)
    file = io.StringIO()
    watch.watch(store, 1.0, Console(file=file, width=100, force_terminal=True))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "0 done · 1 running · 3 waiting" in text
    assert text.rstrip().splitlines()[-1].startswith("grid · smoke")
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_a_sweep_that_has_fallen_silent_is_not_running(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(Workspace.from_environment())
    parent = begun(store, SWEEP_OF_TWO)
    assert store.records(SWEEP)[0].status == "running"
    parent.tag({"eman.heartbeat": f"{time.time() - SILENT_SECONDS - 1:.0f}"})
    assert store.records(SWEEP)[0].status == "missing"
    assert main(["status", "--watch"]) == 0
    assert "no sweep is running" in capsys.readouterr().out


def test_a_sweep_is_found_by_name_and_key_and_must_be_this_versions() -> None:
    store = Store(Workspace.from_environment())
    with pytest.raises(UserError, match="holds no sweep yet"):
        found_sweep(None, store)
    begun(store, SWEEP_OF_TWO, 1000.0).finish()
    begun(store, plan(SweepRequest(tables=["table1"], profile="smoke")), 2000.0).finish()
    assert found_sweep(None, store).name == "table1 · smoke"
    assert found_sweep("grid", store).key == SWEEP_OF_TWO.key
    assert found_sweep(SWEEP_OF_TWO.key[:5], store).name == "grid · smoke"
    assert planned_sweep(found_sweep("table1", store)).key == plan(SweepRequest(tables=["table1"], profile="smoke")).key
    with pytest.raises(UserError, match=r"no sweep 'table9'.*\(table1 · smoke\), .*\(grid · smoke\)"):
        found_sweep("table9", store)
    store.begin(SWEEP, "0" * 16, "old · smoke", params={}, tags={})
    with pytest.raises(UserError, match="made by another version of eman"):
        planned_sweep(found_sweep("old", store))


NOISE = """
import logging, os, signal, subprocess, sys, time, warnings
from rich.console import Console
from eman.sweeps.view.live import Board, Screen, picture
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
sweep = plan(SweepRequest(tables=["table1"], profile="smoke"))
board, console = Board(sweep, time.time()), Console(file=sys.stderr, highlight=False)
screen = Screen(console, lambda: picture(board, console), board.warn)
screen.start()
try:
    time.sleep(0.3)
    os.write(2, b"written past Python\\n")
    os.write(1, b"to the other stream\\n")
    subprocess.run(["echo", "by another process"], check=True)
    warnings.warn("a warning of Python")
    logging.getLogger("eman").warning("a warning of ours")
    os.write(2, b"half a line, ")
    time.sleep(0.8)
    os.write(2, b"and its other half")
    os.kill(os.getpid(), 2)
    time.sleep(5)
except KeyboardInterrupt:
    interrupted = True
finally:
    screen.stop()
print("THE END")
sys.exit(3 * interrupted)
"""


def test_nothing_tears_the_picture_and_nothing_is_lost_also_by_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "noise.py"
    script.write_text(NOISE)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    started = subprocess.Popen(
        [sys.executable, str(script)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert started.wait(timeout=60) == 3, seen.decode()
    erased = seen.decode().replace("\x1b[2K", "\n")  # a line that was wiped: what follows stands at its beginning
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", erased).replace("\r", "")
    lines = text.splitlines()
    for whole in ("written past Python", "to the other stream", "by another process", "a warning of ours"):
        assert lines.count(whole) == 1, whole
    assert sum("a warning of Python" in line and "UserWarning" in line for line in lines) == 1
    assert "half a line, and its other half" in text
    assert "last warning   a warning of ours" in text
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h") == 1
    assert lines[-1] == "THE END"
    after = seen[seen.rindex(b"\x1b[?25h") :]
    assert b"waiting" not in after  # the picture is gone
