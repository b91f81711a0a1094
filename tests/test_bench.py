"""The benchmarks' command line and their history. What they measure is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).with_name("benchmarks")))
import history


@pytest.mark.parametrize("name", ["bench", pytest.param("peers", marks=pytest.mark.slow)])
def test_an_unknown_benchmark_is_one_line_and_code_2(name: str) -> None:
    script = Path(history.__file__).with_name(f"{name}.py")
    done = subprocess.run(
        [sys.executable, str(script), "knn", "linaer"], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")  # nothing is measured first
    assert done.stderr.startswith(f"{name}: unknown benchmark 'linaer'; did you mean 'linear'?")
    assert done.stderr.count("\n") == 1


def entry(processor: str, day: str, **ratios: float) -> dict[str, object]:
    machine = {"processor": processor, "cores": 2, "threads": 2, "torch": "2", "bf16": "on"}
    return {"date": day, "revision": "abc", **machine, "lines": [f"a line of {day}"], "ratios": ratios}


def test_a_ratio_that_lost_more_than_a_tenth_is_marked() -> None:
    entries = [
        entry("A", "1st", fast=5.0, kept=2.0),
        entry("B", "2nd", fast=9.0),
        entry("A", "3rd", fast=4.4, kept=1.9),
    ]
    page = history.page(entries)
    assert "| fast | 5.0 | 4.4 | **-12 %: slower** |" in page
    assert "| kept | 2.0 | 1.9 | -5 % |" in page
    assert "a line of 3rd" in page
    assert "a line of 1st" not in page
    assert "| fast |  | 9.0 |  |" in history.page(entries[:2])  # another machine is nothing to compare with


def test_the_page_is_that_of_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = json.loads(history.HISTORY.read_text(encoding="utf-8"))
    assert history.PAGE.read_text(encoding="utf-8").partition(history.BEGIN)[2].strip() == history.page(entries).strip()
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.json")
    monkeypatch.setattr(history, "PAGE", tmp_path / "page.md")
    (tmp_path / "history.json").write_text("[]")
    (tmp_path / "page.md").write_text(f"By hand.\n{history.BEGIN}\nold")
    new = entry("A", "today", fast=2.0)
    history.put_down({k: v for k, v in new.items() if k not in ("lines", "ratios")}, ["a line"], {"fast": 2.0})
    assert json.loads((tmp_path / "history.json").read_text()) == [new | {"lines": ["a line"]}]
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("By hand.\n")
    assert "| fast |  | 2.0 |  |" in text
    assert "old" not in text
