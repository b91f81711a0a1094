"""The report: a page of a store that was filled by hand, read as HTML and looked at in a browser."""

import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eman.cli import main
from eman.evaluation.results.remarks import comparisons
from eman.evaluation.results.values import Results, Value, values_of
from eman.platform.store.records import EVALUATION, SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.claims.registry import CLAIMS
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.request import SweepRequest

REASON = "<script>alert('no')</script> & a loss that is not finite"
VOID = {"meta", "br", "wbr", "path", "use", "rect", "stop"}


class Page(HTMLParser):
    """Elements, their text, and everything that would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.count: dict[str, int] = {}
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self.kind = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        found = dict(attrs)
        self.kind = found.get("class") or ""
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.text.append((where, data))
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
            if "best" in self.kind.split():
                self.best.append(data.strip())


def fill(store: Store, sweep: Sweep) -> None:
    """Everything done with numbers of its own, but for MoCo's BN/BN, which failed; two epochs of curves."""
    tags = {"eman.request": sweep.request.model_dump_json(), "eman.launched": f"{time.time():.3f}"}
    parent = store.begin(SWEEP, sweep.key, f"{sweep.name} · smoke", params={}, tags=tags)
    for number, (key, spec) in enumerate(sweep.trainings.items()):
        log = store.begin(TRAINING, key, sweep.titles[key], params={}, tags={"eman.data_hash": "cafe"})
        if spec == SMOKE.run("moco", "bn"):
            log.fail(REASON)
            continue
        for epoch in (1, 2):
            log.epoch(epoch, {"train/loss": 2.0 / epoch, "knn/top1": 40.0 + number, "train/feature_std": 0.9})
        log.finish({"test/top1": 50.0 + number, "test/knn_top1": 30.0 + number, "train/seconds": 60.0})
    for number, spec in enumerate(sweep.evaluations.values()):
        metrics = {"linear/10pct_top1": 20.0 + number, "linear/10pct_held_out_top1": 10.0 + number}
        store.begin(EVALUATION, spec.key, "x", params={}, tags={}).finish(metrics)
    parent.finish({"sweep/seconds": 120.0})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, Sweep, list[Value]]:
    """The page of a sweep of two schemes in three methods, the sweep, and its table's values."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMAN_HOME", str(folder / "home"))
        sweep = plan(SweepRequest(tables=["table1"], profile="smoke"))
        fill(Store(Workspace.from_environment()), sweep)
        (folder / "page").mkdir()
        assert main(["report", "--out", str(folder / "page" / "report.html")]) == 0
        found = values_of(sweep.tables[0], Results.read(Store(Workspace.from_environment()), sweep.tables))
    return folder / "page" / "report.html", sweep, found


def test_the_page_stands_by_itself_and_escapes_what_it_quotes(
    written: tuple[Path, Sweep, list[Value]],
) -> None:
    text = written[0].read_text()
    page = Page(text)
    assert page.open == []
    assert all(link.startswith("#") for link in page.links)  # inside the figures
    for word in ("<script", "<link", "<img", "<iframe", "@import", "url(http", "url(//"):
        assert word not in text, word
    assert REASON in "".join(data for _, data in page.text)
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | {link[1:] for link in page.links} <= set(names)


def test_its_tables_are_those_of_eman_table(written: tuple[Path, Sweep, list[Value]]) -> None:
    path, sweep, found = written
    page, table = Page(path.read_text()), sweep.tables[0]
    by_place = {(value.cell.row, value.cell.column): value for value in found}
    rows = {row[0]: row for row in page.rows if len(row) == 7}
    for title in table.rows:
        expected = [title]
        for column in table.columns:
            value = by_place[title, column]
            expected += [value.text(), value.cell.paper]
        assert [" ".join(cell.split()) for cell in rows[title]] == expected
    assert rows["BN / BN"][3].strip() == "failed"
    assert page.best == []  # one seed says nothing about differences
    whole = "".join(data for _, data in page.text)
    for line in [*table.notes, *comparisons(table, found)]:
        assert line in whole


def test_its_claims_are_those_of_eman_claims(
    written: tuple[Path, Sweep, list[Value]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAN_HOME", str(written[0].parents[1] / "home"))
    names = [c.name for c in CLAIMS.values() if {ref.table for ref in c.refs} == {"table1"}]
    out = tmp_path / "claims.md"
    assert main(["claims", *names, "--profile", "smoke", "--format", "markdown", "--out", str(out)]) == 0
    table, notes = out.read_text().split("\n\n")
    page = Page(written[0].read_text())
    printed = {" | ".join(cell.strip() for cell in row[:-1]) for row in page.rows}
    assert len(names) > 10
    for line in table.splitlines()[2:]:
        assert line.strip("| ") in printed
    whole = " ".join("".join(data for _, data in page.text).split())
    for line in notes.splitlines():
        assert line.strip() in whole


def test_over_several_seeds_the_best_of_a_column_is_marked(store_file: Path, tmp_path: Path) -> None:
    store, out = Store(Workspace.from_environment()), tmp_path / "report.html"
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["bn", "eman"], seeds=2))
    fill(store, sweep)
    assert main(["report", "--out", str(out)]) == 0
    found = values_of(sweep.tables[0], Results.read(store, sweep.tables))
    assert Page(out.read_text()).best == [f"{max(value.value or 0.0 for value in found):.1f}"]


def test_it_tells_where_the_numbers_come_from_and_how_to_make_them_again(
    written: tuple[Path, Sweep, list[Value]],
) -> None:
    path, sweep, _ = written
    page = Page(path.read_text())
    whole = "".join(data for _, data in page.text)
    assert page.count["svg"] == 2
    assert "eman sweep table1 --profile smoke" in whole
    assert f"eman report {sweep.key[:8]} --out report.html" in whole
    for word in ("cafe", "torch", "MLflow", sweep.key, "digits", "18 of 19", "18 min"):
        assert word in whole, word
    methods = {row[0]: row[1:] for row in page.rows if len(row) == 4}
    fixmatch, moco, byol = (SMOKE.run(method, "eman") for method in ("fixmatch", "moco", "byol"))
    assert methods["field"] == ["FixMatch", "MoCo", "BYOL"]
    assert methods["projection_dim"] == ["–", f"{moco.flat()['projection_dim']}", f"{byol.flat()['projection_dim']}"]
    assert methods["threshold"] == [f"{fixmatch.flat()['threshold']:g}", "–", "–"]
    assert methods["queue"] == ["–", f"{moco.flat()['queue']:,}", "–"]
    runs = {row[0]: row for row in page.rows if len(row) == 8}
    assert {sweep.titles[key] for key in sweep.trainings} <= runs.keys()
    assert runs["BN / BN · MoCo · s0"][2] == "failed"


def test_a_grid_a_name_and_a_mistake(store_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    assert main(["report", "--out", str(out)]) == 2
    assert "holds no sweep yet" in capsys.readouterr().err
    sweep = plan(SweepRequest(profile="smoke", methods=["moco"], schemes=["eman"], seeds=2))
    store = Store(Workspace.from_environment())
    tags = {"eman.request": sweep.request.model_dump_json(), "eman.launched": "1.0"}
    store.begin(SWEEP, sweep.key, "grid · smoke", params={}, tags=tags)
    for start in ("grid", sweep.key[:6]):
        assert main(["report", start, "--out", str(out)]) == 0
        assert f"sweep {sweep.key[:8]} (grid · smoke)" in capsys.readouterr().out
    text = out.read_text()
    assert "<svg" not in text  # nothing has been trained yet
    assert text.count("missing") == 1 + 2
    assert "running" in text
    assert main(["report", "gird", "--out", str(out)]) == 2
    captured = capsys.readouterr().err
    assert f"there is no sweep 'gird'; give a name, or the beginning of a key. The newest: {sweep.key[:8]}" in captured
    assert captured.count("\n") == 1


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PROBE = """<script>
addEventListener("load", () => {
  const all = names => [...document.querySelectorAll(names)];
  const wide = all("main > *, figure, svg").filter(e => e.getBoundingClientRect().right > innerWidth);
  const flat = all("svg, table").filter(e => e.getBoundingClientRect().height < 40);
  document.title = [innerWidth, document.documentElement.scrollWidth, wide.length, flat.length].join(" ");
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 420])
def test_it_looks_right_in_a_browser(written: tuple[Path, Sweep, list[Value]], width: int, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    probed = tmp_path / "probed.html"
    probed.write_text(written[0].read_text().replace("</body>", PROBE + "</body>"))
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    browser = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600"]

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*browser, *arguments, probed.as_uri()], check=True, capture_output=True, text=True, timeout=90
        ).stdout

    title = re.search(r"<title>([^<]*)</title>", run("--dump-dom"))
    assert title is not None
    inner, scrolled, wide, flat = map(int, title[1].split())
    assert scrolled <= inner  # nothing sticks out; tables scroll inside themselves
    assert (wide, flat) == (0, 0)
    if width > 1000:
        pdf = tmp_path / "report.pdf"
        run(f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
        assert 1 < len(re.findall(rb"/Type ?/Page\b", pdf.read_bytes())) < 8
