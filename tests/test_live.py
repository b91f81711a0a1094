"""The state of a sweep, from events and from the store, and what a terminal shows of it."""

import io
import random
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from eman.cli import main
from eman.evaluation.results.values import Results
from eman.platform.errors import UserError
from eman.platform.store.records import EVALUATION, SILENT_SECONDS, SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.events import Done, Event, Failed, Lost, Progress, Started, Waiting
from eman.sweeps.run.state import SweepState
from eman.sweeps.view import watch
from eman.sweeps.view.status import find_sweep, planned_sweep
from eman.sweeps.view.terminal import Terminal, picture

#: Making the store is not what these tests are about.
pytestmark = pytest.mark.usefixtures("store_file")

SWEEP_OF_TWO = plan(
    SweepRequest(profile="smoke", methods=["fixmatch", "moco"], schemes=["bn", "eman"], linear_lr=[1.0, 2.0])
)
FIRST, SECOND, THIRD, FOURTH = SWEEP_OF_TWO.trainings
TITLE = SWEEP_OF_TWO.titles


def begin_sweep(store: Store, sweep: Sweep, launched: float | None = None) -> RunLog:
    tags = {"eman.request": sweep.request.model_dump_json(), "eman.launched": f"{launched or time.time():.3f}"}
    return store.begin(SWEEP, sweep.key, f"{sweep.name} · {sweep.profile.name}", params={}, tags=tags)


def begin_training(store: Store, sweep: Sweep, key: str) -> RunLog:
    return store.begin(TRAINING, key, sweep.titles[key], params={}, tags={})


def after(*events: Event, launched: float = 0.0) -> SweepState:
    """The state of the sweep of two methods after some events."""
    state = SweepState(SWEEP_OF_TWO, launched)
    for event in events:
        state.apply(event)
    return state


def shown(state: SweepState, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, record=True)
    console.print(picture(state, console))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_events_decide_the_state_of_runs() -> None:
    state = after(
        Started(FIRST, at=1.0),
        Started(SECOND, at=1.0),
        Done(FIRST, 3.0, at=5.0),
        Failed(SECOND, "the loss is not finite", at=6.0),
        Started(THIRD, at=6.0),
    )
    assert state.count() == {"done": 1, "failed": 1, "running": 1, "waiting": 1}
    assert list(state.running()) == [TITLE[THIRD]]
    assert state.warning == f"{TITLE[SECOND]}: the loss is not finite"
    state.apply(Lost(THIRD, "its process died", at=7.0))
    assert state.count()["waiting"] == 2
    state.apply(Started(THIRD, at=8.0))
    assert state.runs[THIRD].share == 0.0


def test_totals_follow_from_the_runs_after_any_events() -> None:
    chance, state = random.Random(0), SweepState(SWEEP_OF_TWO, 50.0)
    for at in range(200):
        key = chance.choice(list(state.runs))
        make: Callable[[], Event] = chance.choice(
            [
                lambda: Started(key, at=at),  # noqa: B023
                lambda: Progress(key, chance.random(), at=at),  # noqa: B023
                lambda: Done(key, at=at),  # noqa: B023
                lambda: Failed(key, "", at=at),  # noqa: B023
                lambda: Lost(key, at=at),  # noqa: B023
            ]
        )
        state.apply(make())
        for trainings, keys in ((True, SWEEP_OF_TWO.trainings), (False, SWEEP_OF_TWO.evaluations)):
            statuses = [state.runs[key].status for key in keys]
            assert state.count(trainings=trainings) == {status: statuses.count(status) for status in set(statuses)}
        assert len(state.running()) <= sum(run.status == "running" for run in state.runs.values())
    for key in state.runs:
        state.apply(Done(key, at=200.0))
    assert state.share() == 1.0


def test_what_was_done_before_the_launch_is_reused() -> None:
    state = after(Done(FIRST, at=50.0), Done(SECOND, at=150.0), launched=100.0)
    assert (state.runs[FIRST].status, state.runs[SECOND].status) == ("reused", "done")


def test_between_reports_a_run_goes_on_at_its_pace_but_does_not_end() -> None:
    state = after(Started(FIRST, at=0.0), Progress(FIRST, 0.25, at=10.0))
    assert state.runs[FIRST].share_at(20.0) == pytest.approx(0.5)
    assert state.runs[FIRST].share_at(1000.0) == 0.99


def test_the_time_left_follows_from_the_work_done_in_this_launch() -> None:
    state = after(Done(FIRST, at=0.0), launched=100.0)
    assert state.seconds_left(200.0) is None  # nothing was done in this launch
    state.apply(Started(SECOND, at=100.0))
    for key in (SECOND, THIRD, FOURTH):
        state.apply(Done(key, at=110.0))
    left = state.seconds_left(120.0)
    assert left is not None and left > 0
    for key in SWEEP_OF_TWO.evaluations:
        state.apply(Done(key, at=115.0))
    assert state.seconds_left(120.0) == 0.0
    assert state.share(120.0) == 1.0


def test_the_best_so_far_is_chosen_and_shown_on_held_out_images() -> None:
    [wanted] = [w for w in dict.fromkeys(SWEEP_OF_TWO.wanted) if w.run.key == FOURTH]
    events: list[Event] = [Progress(FIRST, 0.5, {"accuracy/top1": 31.0, "test/top1": 99.0})]
    for spec, test, held_out in zip(wanted.evaluations, (90.0, 55.0), (50.0, 52.0), strict=True):
        events.append(Done(spec.key, metrics={wanted.metric: test, wanted.select_by: held_out}))
    best = {b.method: b for b in after(*events).best()}
    assert (best["MoCo"].metric, best["MoCo"].value) == (wanted.select_by, 52.0)
    assert (best["FixMatch"].metric, best["FixMatch"].value) == ("accuracy/top1", 31.0)
    whole = " ".join(shown(after(*events)))
    assert "52.0" in whole
    for number in ("90.0", "55.0", "99.0"):
        assert number not in whole


def test_without_held_out_images_no_best_is_shown() -> None:
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn"], overrides={"held_out": 0}))
    state = SweepState(sweep, 0.0)
    state.apply(Progress(next(iter(sweep.trainings)), 0.5, {"knn/top1": 31.0}))
    assert list(state.best()) == []


@pytest.mark.parametrize("width", [60, 100])
def test_a_picture_shows_everything_in_the_terminals_width(width: int) -> None:
    evaluation = next(iter(SWEEP_OF_TWO.evaluations))
    state = after(
        Started(FIRST),
        Progress(FIRST, 0.5, {"train/images_per_second": 1920.0}),
        Started(SECOND),
        Failed(THIRD, "the loss is not finite in epoch 3"),
        Started(evaluation),
        launched=time.time() - 100,
    )
    lines = shown(state, width)
    assert all(len(line) <= width for line in lines)
    whole = "\n".join(lines)
    assert "grid · smoke" in whole
    assert "0 done · 2 running · 1 waiting · 1 failed" in whole
    assert "evaluations   0 of 4" in whole
    if width == 100:
        [row] = [line for line in lines if line.startswith(f"{TITLE[FIRST]} ")]
        assert row.endswith("epoch 2/2  1,920 images/s")
        assert any(line.startswith(TITLE[SECOND]) and line.endswith("loading data") for line in lines)
    assert any(line.startswith("last warning") for line in lines)


def test_it_says_what_it_waits_for() -> None:
    assert any("starting Ray" in line for line in shown(after(Waiting("starting Ray"))))
    assert not any("starting Ray" in line for line in shown(after(Waiting("starting Ray"), Started(FIRST))))


def test_without_a_terminal_there_are_whole_lines() -> None:
    file, state = io.StringIO(), SweepState(SWEEP_OF_TWO, time.time())
    with Terminal(Console(file=file, width=40)) as terminal:
        for event in (
            Waiting("starting Ray"),
            Started(FIRST),
            Progress(FIRST, 0.5),
            Done(FIRST, 3.0),
            Failed(SECOND, "the loss is not finite in epoch 1, and this line is long"),
        ):
            state.apply(event)
            terminal.show(state, event)
    assert file.getvalue().splitlines() == [
        "starting Ray",
        f"[1/4] {TITLE[FIRST]}: done in 3 s",
        f"[2/4] {TITLE[SECOND]}: failed: the loss is not finite in epoch 1, and this line is long",
    ]


def test_a_terminal_breaks_lines_between_words_and_gets_its_cursor_back() -> None:
    file, state = io.StringIO(), SweepState(SWEEP_OF_TWO, time.time())
    event = Failed(FIRST, "a reason of several words that does not fit into one line of eighty characters")
    state.apply(event)
    with Terminal(Console(file=file, width=80, force_terminal=True)) as terminal:
        terminal.show(state, event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", file.getvalue())
    lines = [line.rstrip() for line in text.splitlines()]
    assert set(event.reason.split()) <= {word for line in lines for word in line.split()}
    assert all(len(line) <= 80 for line in lines)
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1


def test_a_closed_terminal_does_not_stop_the_sweep() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    state = after(Done(FIRST, 3.0))
    Terminal(Console(file=Closed(), width=80)).show(state, Done(FIRST, 3.0))


def test_the_store_gives_the_same_state_as_the_events() -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    old = begin_training(store, sweep, FIRST)
    old.finish({"test/top1": 50.0, "train/images_per_second": 400.0})
    launched = store.records(TRAINING, FIRST)[0].end + 0.001
    time.sleep(0.01)
    begin_training(store, sweep, SECOND).epoch(1, {"train/images_per_second": 300.0, "knn/top1": 15.0}, 0.5)
    begin_training(store, sweep, THIRD).fail("the loss is not finite in epoch 1")
    spec = next(iter(sweep.evaluations.values()))
    store.begin(EVALUATION, spec.key, "knn of something", params={}, tags={})
    state = SweepState(sweep, launched)
    for event in state.changes(Results.read(store, state.sweep.tables)):
        state.apply(event)
    assert state.count() == {"reused": 1, "running": 1, "failed": 1, "waiting": 1}
    assert state.count(trainings=False)["running"] == 1
    assert state.runs[SECOND].share == 0.5
    assert state.warning.endswith("the loss is not finite in epoch 1")
    assert [(b.method, b.value) for b in state.best()] == [("MoCo", 15.0)]
    assert not [
        event for event in state.changes(Results.read(store, state.sweep.tables)) if not isinstance(event, Progress)
    ]


def when_asleep(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """What happens in the store while a watcher sleeps."""
    left = list(steps)
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: left.pop(0)())


def test_watching_tells_every_change_and_ends_with_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    parent = begin_sweep(store, sweep)
    logs: list[RunLog] = []
    when_asleep(
        monkeypatch,
        lambda: logs.append(begin_training(store, sweep, FIRST)),
        lambda: (
            logs[0].finish({"test/top1": 50.0, "train/seconds": 3.0}),
            begin_training(store, sweep, SECOND).fail("out of luck"),
        ),
        parent.finish,
    )
    file = io.StringIO()
    watch.watch(store, 1.0, Terminal(Console(file=file, width=200)))
    lines = file.getvalue().splitlines()
    assert lines[0] == f"grid · smoke ({sweep.key[:8]}): 4 waiting, 0 %"
    assert f"[1/4] {TITLE[FIRST]}: done in 3 s" in lines
    assert f"[2/4] {TITLE[SECOND]}: failed: out of luck" in lines
    assert lines[-1].startswith(f"grid · smoke ({sweep.key[:8]}) has ended: 1 done, 2 waiting, 1 failed, ")


def test_watching_on_a_terminal_shows_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    store, sweep = Store(Workspace.from_environment()), SWEEP_OF_TWO
    parent = begin_sweep(store, sweep)
    begin_training(store, sweep, FIRST)
    real = time.sleep
    when_asleep(monkeypatch, lambda: real(0.7), parent.finish)
    file = io.StringIO()
    watch.watch(store, 1.0, Terminal(Console(file=file, width=100, force_terminal=True)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "0 done · 1 running · 3 waiting" in text
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_a_sweep_that_has_fallen_silent_is_not_running(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(Workspace.from_environment())
    parent = begin_sweep(store, SWEEP_OF_TWO)
    assert store.records(SWEEP)[0].status == "running"
    parent.tag({"eman.heartbeat": f"{time.time() - SILENT_SECONDS - 1:.0f}"})
    assert store.records(SWEEP)[0].status == "missing"
    assert main(["status", "--watch"]) == 0
    assert "no sweep is running" in capsys.readouterr().out


def test_a_sweep_is_found_by_name_and_key_and_must_be_this_versions() -> None:
    store = Store(Workspace.from_environment())
    with pytest.raises(UserError, match="holds no sweep yet"):
        find_sweep(None, store)
    begin_sweep(store, SWEEP_OF_TWO, 1000.0).finish()
    begin_sweep(store, plan(SweepRequest(tables=["table1"], profile="smoke")), 2000.0).finish()
    assert find_sweep(None, store).name == "table1 · smoke"
    assert find_sweep("grid", store).key == SWEEP_OF_TWO.key
    assert find_sweep(SWEEP_OF_TWO.key[:5], store).name == "grid · smoke"
    assert planned_sweep(find_sweep("table1", store)).key == plan(SweepRequest(tables=["table1"], profile="smoke")).key
    with pytest.raises(UserError, match=r"no sweep 'table9'.*\(table1 · smoke\), .*\(grid · smoke\)"):
        find_sweep("table9", store)
    store.begin(SWEEP, "0" * 16, "old · smoke", params={}, tags={})
    with pytest.raises(UserError, match="made by another version of eman"):
        planned_sweep(find_sweep("old", store))
