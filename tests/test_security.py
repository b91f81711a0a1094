"""Who can reach what listens, and what hostile names do."""

import ipaddress
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from markdown_it import MarkdownIt

from eman.cli import main
from eman.commands.printing import show
from eman.evaluation.results import verdicts
from eman.evaluation.results.claims import Measured, judge
from eman.evaluation.results.render import markdown
from eman.evaluation.results.values import Results, values_of
from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.claims.registry import CLAIMS
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.view.links import description_tags

HOSTILE = "<img src=x onerror=alert(1)>|[x](javascript:alert(1))`![y](http://z/)**"


def listening(process: psutil.Process) -> set[str]:
    """The addresses at which a process and its children listen for TCP."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            found |= {f"{c.laddr.ip}:{c.laddr.port}" for c in one.net_connections("tcp") if c.status == "LISTEN"}
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


@pytest.mark.slow
def test_a_sweep_listens_on_loopback_alone(home: Path) -> None:
    words = ["grid", "--method", "moco", "--scheme", "eman", "--profile", "smoke"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "eman", "sweep", *words],
        env={**os.environ, "EMAN_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    process, seen = psutil.Process(sweep.pid), set[str]()
    while sweep.poll() is None:
        seen |= listening(process)
        time.sleep(0.2)
    assert sweep.stderr is not None
    assert sweep.returncode == 0, sweep.stderr.read()
    sweep.stderr.close()
    assert len(seen) > 5  # Ray's ports, its metrics among them
    assert not {address for address in seen if not is_loopback(address.rpartition(":")[0])}


def hostile_sweep() -> Sweep:
    return plan(SweepRequest(methods=["moco"], schemes=["bn", "eman"], profile="smoke", name=HOSTILE))


def check_markdown(text: str) -> None:
    """What a Markdown page shows is text and tables, and nothing that a name brought in."""
    tokens = MarkdownIt().enable("table").parse(text)
    kinds = {token.type for outer in tokens for token in [outer, *(outer.children or [])]}
    assert not kinds & {"html_block", "html_inline", "image"}
    links = [t.attrs["href"] for outer in tokens for t in outer.children or [] if t.type == "link_open"]
    assert all(str(link).startswith(".#/") for link in links)  # MLflow's own pages
    assert "alert(1)" in text


def test_a_name_is_text_in_a_markdown_table(store_file: Path) -> None:
    [table] = hostile_sweep().tables
    cells = tuple(replace(cell, row=f"{cell.row} {HOSTILE}", column=HOSTILE, paper=HOSTILE) for cell in table.cells)
    table = replace(table, title=HOSTILE, cells=cells, notes=(HOSTILE,), side=HOSTILE, reference=HOSTILE)
    text = markdown(table, values_of(table, Results.read(Store(Workspace.from_environment()), [table])))
    check_markdown(text)
    page = MarkdownIt().enable("table").render(text)
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    assert {len(re.findall(r"<t[hd]", row)) for row in rows} == {3}  # a name adds no cell
    assert len(rows) == 1 + len(table.rows)


def test_a_claim_is_text_in_a_markdown_table() -> None:
    claim = replace(next(iter(CLAIMS.values())), says=HOSTILE)
    text = verdicts.markdown(judge({claim: Measured("-", {0: 1.0, 1: 2.0})}))
    check_markdown(text)
    rows = re.findall(r"<tr>(.*?)</tr>", MarkdownIt().enable("table").render(text), re.DOTALL)
    assert [len(re.findall(r"<t[hd]", row)) for row in rows] == [len(verdicts.HEADINGS)] * 2


def test_a_sweeps_name_is_text_in_its_description_and_its_report(store_file: Path, tmp_path: Path) -> None:
    sweep, store = hostile_sweep(), Store(Workspace.from_environment())
    tags = {"eman.request": sweep.request.model_dump_json(), "eman.launched": "1.0"}
    store.begin(SWEEP, sweep.key, f"{sweep.name} · smoke", params={}, tags=tags).finish({})
    check_markdown(description_tags(sweep, store, ["a table"])["mlflow.note.content"])
    assert main(["report", "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img" not in page


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "x" * 201])
def test_a_sweeps_name_is_a_short_line(name: str) -> None:
    with pytest.raises(UserError, match="printable characters"):
        SweepRequest(methods=["moco"], schemes=["bn"], profile="smoke", name=name)


def test_a_terminal_obeys_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    show(["a\x1b[2Jb\x9bc\rd", "café\tα"])
    assert capsys.readouterr().out == "a\\x1b[2Jb\\x9bc\\x0dd\ncafé\tα\n"
