"""Tables from a store that was filled by hand, in every format."""

import hashlib
import io
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from eman.evaluation.results import paper, significance
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.evaluation.results.long import LONG_COLUMNS, write_parquet
from eman.evaluation.results.remarks import ONE_SEED
from eman.evaluation.results.render import render
from eman.evaluation.results.values import Results, Value, against, values_of
from eman.platform.errors import UserError
from eman.platform.store.records import EVALUATION, TRAINING
from eman.platform.store.store import Store
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Workspace
from eman.sweeps.plan import TABLES, plan
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.request import SweepRequest
from eman.sweeps.tables.scope import Scope

#: Making the store is not what these tests are about.
pytestmark = pytest.mark.usefixtures("store_file")

SCOPE = Scope(profile=SMOKE)
ROOT = Path(__file__).resolve().parent.parent
#: Digest of the list that was checked against the paper.
PAPER_SHA256 = "9fa5c9078dcbd330de1893701ba9332c76b9f11810d69746b0ce2a3e1cb2e123"


def begin(store: Store, kind: str, key: str) -> RunLog:
    """Claim a run, also one that is done."""
    known = store.by_key(kind, [key]).get(key)
    return store.begin(kind, key, "x", params={}, tags={}, previous_owner=known.owner if known else "")


def planned(*names: str, profile: str = "smoke", seeds: int = 1) -> tuple[Table, ...]:
    return plan(SweepRequest(tables=names, profile=profile, seeds=seeds)).tables


def fill(store: Store, seeds: int = 2) -> None:
    """FixMatch, BN/BN and EMAN: 60 and 70 (+1 a seed). MoCo, EMAN: three rates, of which the second is best on the
    held-out images. MoCo, BN/BN: failed. BYOL, BN/BN: running."""
    for seed in range(seeds):
        for scheme, value in (("bn", 60.0), ("eman", 70.0)):
            run = SMOKE.run("fixmatch", scheme, seed)
            begin(store, TRAINING, run.key).finish({"test/top1": value + seed})
        run = SMOKE.run("moco", "eman", seed)
        begin(store, TRAINING, run.key).finish({"test/knn_top1": 1.0})
        for spec, held_out, test in zip(
            SCOPE.standard(run).evaluations, (50.0, 52.0, 51.0), (90.0, 55.0, 80.0), strict=True
        ):
            begin(store, EVALUATION, spec.key).finish(
                {"linear/10pct_top1": test, "linear/10pct_held_out_top1": held_out}
            )
    begin(store, TRAINING, SMOKE.run("moco", "bn").key).fail("the loss is not finite in epoch 1")
    begin(store, TRAINING, SMOKE.run("byol", "bn").key)


def values(seeds: int = 2) -> dict[tuple[str, str], Value]:
    store = Store(Workspace.from_environment())
    fill(store, seeds)
    table = TABLES["table1"](Scope(profile=SMOKE, seeds=range(seeds)))
    return {(v.cell.row, v.cell.column): v for v in values_of(table, Results.read(store, [table]))}


def test_cells_are_means_over_seeds_with_the_truth_about_the_rest() -> None:
    found = values()
    cell = found["BN / EMAN", "FixMatch"]
    assert (cell.value, cell.n, cell.status) == (70.5, 2, "done")
    assert cell.spread == pytest.approx(0.70711, abs=1e-4)
    assert cell.interval == pytest.approx((70.5 - 12.7062 * 0.5, 70.5 + 12.7062 * 0.5), abs=1e-3)
    assert found["BN / EMAN", "MoCo"].value == 55.0  # the rate that the held-out images chose, not the best on test
    assert found["BN / BN", "BYOL"].status == "running"
    assert found["GN / GN", "MoCo"].status == "missing"
    assert found["GN / GN", "MoCo"].value is None
    failed = values(1)["BN / BN", "MoCo"]
    assert (failed.status, failed.text(), failed.reason) == ("failed", "failed", "the loss is not finite in epoch 1")


def test_one_seed_has_no_spread() -> None:
    assert values(1)["BN / EMAN", "FixMatch"].spread is None


def test_a_rate_that_diverges_is_out_of_the_running() -> None:
    store = Store(Workspace.from_environment())
    fill(store, 1)
    best = SCOPE.standard(SMOKE.run("moco", "eman")).evaluations[1]
    begin(store, EVALUATION, best.key).fail("the linear classifier diverged")
    table = TABLES["table1"](SCOPE)
    found = {(v.cell.row, v.cell.column): v for v in values_of(table, Results.read(store, [table]))}
    assert found["BN / EMAN", "MoCo"].value == 80.0


@pytest.fixture
def filled() -> list[tuple[Table, list[Value]]]:
    store = Store(Workspace.from_environment())
    fill(store)
    shown = planned("table1", "table8", seeds=2)
    results = Results.read(store, shown)
    return [(table, values_of(table, results)) for table in shown]


def test_seeds_decide_what_is_said(filled: list[tuple[Table, list[Value]]]) -> None:
    text = render(filled, "text")
    assert "FixMatch: BN / EMAN minus BN / BN +10.0 ±0.0 (p < 0.001, 2 seeds): higher; Kendall's tau" in text
    assert "Kendall's tau with the paper's column +1.00 over 2 rows." in text
    [table] = planned("table1")
    alone = [(table, values_of(table, Results.read(Store(Workspace.from_environment()), [table])))]
    assert ONE_SEED in render(alone, "text")
    assert ONE_SEED not in text
    assert ONE_SEED in render(alone, "markdown")


def test_differences_are_those_of_the_textbook() -> None:
    first, second = {0: 61.0, 1: 63.5, 2: 62.0, 5: 1.0}, {0: 60.0, 1: 61.0, 2: 61.5, 7: 9.0}
    found = significance.difference(first, second)
    assert found is not None
    paired = stats.ttest_rel([61.0, 63.5, 62.0], [60.0, 61.0, 61.5])
    interval = paired.confidence_interval(0.95)
    assert (found.n, found.mean) == (3, pytest.approx(4 / 3))
    assert found.p == pytest.approx(paired.pvalue)
    assert found.mean - found.half_width == pytest.approx(interval.low)
    assert found.verdict == "no difference shown"
    assert significance.difference({0: 1.0}, {0: 2.0}) is None
    equal = significance.difference(first, first)
    assert equal is not None
    assert (equal.p, equal.verdict) == (1.0, "no difference shown")
    assert significance.kendall([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(4 / 6)
    assert significance.kendall([1, 1], [1, 2]) is None


@pytest.mark.parametrize(
    ("profile", "where"),
    [
        ("imagenet", "of the test images, on which the official code selects too"),
        ("smoke", "of the 200 held-out training images"),
    ],
)
def test_every_table_names_its_selection_and_what_it_is_made_on(profile: str, where: str) -> None:
    grid = SweepRequest(methods=("moco",), schemes=("bn",), profile=profile, selection="best")
    asked = [SweepRequest(tables=tuple(TABLES), profile=profile, selection="best"), grid]
    shown = [table for request in asked for table in plan(request).tables]
    assert len(shown) == len(TABLES) + 1
    for table in shown:
        [note] = [note for note in table.notes if note.startswith("Network: the student after the best epoch")]
        assert f"on 50 % {where}; selection: best." in note
    last = plan(grid.model_copy(update={"selection": "last"})).tables[0].notes
    assert "Network: the student after the last epoch; selection: last." in last


def tau_by_enumeration(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau-b by its definition, over all pairs of rows."""

    def sign(a: float, b: float) -> int:
        return (a > b) - (a < b)

    signs = [(sign(a[0], b[0]), sign(a[1], b[1])) for a, b in itertools.combinations(pairs, 2)]
    ours, theirs = (sum(pair[side] != 0 for pair in signs) for side in (0, 1))
    return sum(first * second for first, second in signs) / math.sqrt(ours * theirs)


def test_failures_rank_last_on_both_sides_and_a_run_of_two_rows_counts_once() -> None:
    """The default of BYOL is SyncBN / SyncBN; the paper's GN and IN failed, our BN / BN did."""
    numbers = {"default / default": 60.5, "SyncBN / SyncBN": 60.5, "BN / ShuffleBN": 57.5, "GN / GN": 20.5}
    numbers |= {"IN / IN": 61.5, "BN / EMAN": 59.5}
    table = TABLES["table1"](Scope(profile=SMOKE, seeds=range(2)))
    shown = []
    for cell in table.cells:
        number = numbers.get(cell.row) if cell.column == "BYOL" else None
        by_seed = {} if number is None else {0: number, 1: number}
        failed = (cell.row, cell.column) == ("BN / BN", "BYOL")
        shown.append(Value(cell, number, None, None, by_seed, "done" if by_seed else "failed" if failed else "missing"))
    text = render([(table, shown)], "text")
    lowest = 0.0
    pairs = [(60.5, 55.4), (lowest, 52.0), (57.5, 52.6), (20.5, lowest), (61.5, lowest), (59.5, 56.2)]
    expected = tau_by_enumeration(pairs)
    assert expected == pytest.approx(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
    assert f"Kendall's tau with the paper's column {expected:+.2f} over 6 rows" in text
    assert "a run that fills two rows counts once" in text


def test_rows_without_a_number_on_one_side_are_not_ranked() -> None:
    cells = [
        Cell("grid", f"row {n}", "a", published, (Wanted(SMOKE.run("fixmatch", "bn", n), (), "test/top1"),))
        for n, published in enumerate(("50.0", "60.0*", "-", "failed", "† 70.0"))
    ]
    ours = (1.0, 2.0, 0.5, 0.1, 3.0)
    shown = [Value(cell, x, None, None, {0: x, 1: x}, "done") for cell, x in zip(cells, ours, strict=True)]
    table = Table("grid", "Grid", tuple(cells), contrasts=(("row 0", "row 1"),))
    assert "Kendall's tau with the paper's column +1.00 over 3 rows" in render([(table, shown)], "text")


def test_text_and_markdown(filled: list[tuple[Table, list[Value]]]) -> None:
    text = render(filled, "text")
    assert "70.5 ±0.7 (69.2)" in text
    assert "55.0 ±0.0 (55.8)" in text
    assert "Table 8." in text
    markdown = render(filled, "markdown")
    assert "| BN / EMAN | 70.5 ±0.7 | 69.2 | 55.0 ±0.0 | 55.8 | missing | 56.2 |" in markdown
    assert "failed: BN / BN, MoCo: the loss is not finite in epoch 1" in markdown


def test_quoted_rows_have_the_papers_number_alone() -> None:
    shown = planned("table4", "table5")
    results = Results.read(Store(Workspace.from_environment()), shown)
    found = [(table, values_of(table, results)) for table in shown]
    text = render(found, "text")
    assert re.search(r"InstDisc +- \(46.5\) +- \(-\) +- \(-\)", text)
    assert re.search(r"MoCo-EMAN \(200 epochs\) +missing \(58.0\)", text)
    assert "network" in text
    assert re.search(r"SwAV \(800 epochs\) +- \(23.5\)", text)


def test_latex_is_balanced_and_escaped(filled: list[tuple[Table, list[Value]]]) -> None:
    latex = render(filled, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert "α" not in latex
    assert "±" not in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert all(line.count(" & ") == 3 for line in body)


def test_csv_is_long_form(filled: list[tuple[Table, list[Value]]]) -> None:
    frame = pd.read_csv(io.StringIO(render(filled, "csv")), dtype={"paper": str})
    assert list(frame.columns) == list(LONG_COLUMNS)
    assert len(frame) == 46
    assert set(frame["status"]) == {"done", "failed", "running", "missing"} - {"failed"} | set(frame["status"])
    one = frame[(frame["table"] == "table8") & (frame["row"] == "BN / EMAN") & (frame["column"] == "FixMatch")].iloc[0]
    assert (one["value"], one["n"], one["status"], one["paper"]) == (70.5, 2, "done", "69.2")


def test_parquet_has_the_keys(filled: list[tuple[Table, list[Value]]], tmp_path: Path) -> None:
    results = Results.read(Store(Workspace.from_environment()), [table for table, _ in filled])
    write_parquet(filled, results, tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert len(frame) == 46
    assert frame["keys"].iloc[0].count(",") == 1
    moco = frame[(frame["row"] == "BN / EMAN") & (frame["column"] == "MoCo") & (frame["table"] == "table1")].iloc[0]
    chosen = [SCOPE.standard(SMOKE.run("moco", "eman", seed)).evaluations[1].key for seed in (0, 1)]
    assert moco["evaluations"] == ",".join(chosen)
    assert (moco["seeds"], moco["network"], moco["selection"], moco["reference"]) == ("0,1", "student", "last", "paper")
    assert len(moco["git"]) >= 7
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_papers_numbers_stand_beside_ours_in_all_tables(profile: Profile) -> None:
    """Every number of the paper's tables stands in a cell of ours, once, but for what needs other data sets."""
    left = dict(paper.published())
    for table in planned(*TABLES, profile=profile.name):
        for cell in table.cells:
            row = cell.row.partition(" (res")[0] if table.name == "table3" else cell.row
            row = f"ImageNet: {row}" if table.name == "table5" and ": " not in row else row
            assert cell.paper == left.pop((table.name, row, cell.column), "-")
    elsewhere = () if profile is IMAGENET else ("VOC2007: ", "iNaturalist: ")
    for (number, row, column), value in left.items():
        known = value == "-" or column in ("arch", "pretraining epochs") or row.startswith(elsewhere)
        assert known, (number, row, column)


def test_another_store_can_stand_beside(filled: list[tuple[Table, list[Value]]]) -> None:
    results = Results.read(Store(Workspace.from_environment()), [filled[0][0]])
    table, found = against(filled[0][0], results, "elsewhere"), filled[0][1]
    shown = [(table, values_of(table, results))]
    text = render(shown, "text")
    assert "ours (elsewhere)" in text
    assert "70.5 ±0.7 (70.5 ±0.7)" in text
    assert "Kendall's tau with elsewhere's column +1.00 over 2 rows." in text
    assert "missing (missing)" in text
    assert [value.value for value in shown[0][1]] == [value.value for value in found]


def test_a_run_whose_start_failed_has_failed_for_that_reason() -> None:
    store = Store(Workspace.from_environment())
    table = TABLES["table6"](SCOPE)
    [item] = next(c for c in table.cells if (c.row, c.column) == ("EMAN from MoCo-EMAN, 1×", "1% labels top-1")).wanted
    assert item.run.network.init is not None
    assert value_state(table, store, item) == "missing"
    store.begin(TRAINING, item.run.network.init.key, "x", params={}, tags={}).fail("the loss is not finite in epoch 1")
    value = next(v for v in values_of(table, Results.read(store, [table])) if v.cell.wanted == (item,))
    assert (value.status, value.reason) == (
        "failed",
        "the run that it starts from failed: the loss is not finite in epoch 1",
    )


def value_state(table: Table, store: Store, item: Wanted) -> str:
    return next(v.status for v in values_of(table, Results.read(store, [table])) if v.cell.wanted == (item,))


def test_the_papers_numbers_are_whole() -> None:
    assert len(paper.published()) == 408
    assert hashlib.sha256(paper.FILE.read_bytes()).hexdigest() == PAPER_SHA256


def test_a_result_cannot_hide_another_one() -> None:
    first, second = (Wanted(SMOKE.run("fixmatch", scheme, 0), (), "test/top1") for scheme in ("bn", "eman"))
    with pytest.raises(UserError, match="'a', 'b' has several results of seed 0"):
        Cell("grid", "a", "b", "-", (first, second))
    cells = tuple(Cell("grid", "a", "b", "-", (wanted,)) for wanted in (first, second))
    with pytest.raises(UserError, match="several different runs would stand in the cell 'a', 'b'"):
        Table("grid", "Grid", cells)


def test_only_what_a_table_needs_is_read() -> None:
    store = Store(Workspace.from_environment())
    [table] = planned("table1")
    fill(store, 2)
    results = Results.read(store, [table])
    assert {record.params.get("seed", "0") for record in results.trainings.values()} == {"0"}
    assert len(results.trainings) == 5 < len(store.by_key(TRAINING))


def test_reading_values_imports_no_heavy_library() -> None:
    code = (
        "import sys, eman.evaluation.results.values, eman.evaluation.results.render, eman.evaluation.protocols.spec\n"
        "heavy = 'torch', 'torchvision', 'ray', 'mlflow', 'pandas', 'scipy', 'sklearn', 'matplotlib'\n"
        "assert not (loaded := [name for name in heavy if name in sys.modules]), loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
