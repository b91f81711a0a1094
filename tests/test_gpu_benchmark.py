"""The GPU benchmark, tiny and on the CPU. What it measures is not tested."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("benchmarks") / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))
from gpu_parts import table  # noqa: E402
from gpu_parts.report import Report, read  # noqa: E402


def test_a_dry_run_fills_every_part(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert {"card", "torch", "date", "revision", "command"} <= set(results["about"])
    assert list(results["parts"]) == ["ceilings", "right", "fast", "small", "profile"]
    for name, part in results["parts"].items():
        assert part["rows"], name
        assert (part["errors"], part["left_out"]) == ({}, []), name
    assert results["parts"]["right"]["failed"] == []
    assert any("extrapolated" in name for name in results["parts"]["small"]["rows"])
    page = table.render(results)
    assert page in done.stdout
    for heading in ("| ceiling |", "| comparison |", "| ResNet-50 |", "| profile mini |", "| share of a step |"):
        assert heading in page


def test_a_configuration_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.json", "fast", 60)

    def broken() -> dict[str, float]:
        raise RuntimeError("out of memory")

    assert report.attempt("first", broken) is None
    assert report.attempt("second", lambda: {"ms": 2.0}) == {"ms": 2.0}
    assert report.attempt("third", lambda: {"ms": 3.0}, needs=3600) is None
    found = read(tmp_path / "gpu.json")["parts"]["fast"]
    assert found["rows"] == {"second": {"ms": 2.0}}
    assert found["errors"]["first"].endswith("RuntimeError: out of memory")
    assert found["left_out"] == ["third"]


def test_a_part_continues_after_the_configuration_that_killed_its_process(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    code = (
        f"import os, sys; from pathlib import Path; sys.path[:0] = {sys.path!r}; from gpu_parts.report import Report\n"
        f"report = Report(Path({str(path)!r}), 'fast', 60); report.attempt('first', lambda: {{'ms': 1.0}})\n"
        "report.attempt('second', lambda: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    again = Report(path, "fast", 60)
    measured: list[str] = []
    for name in ("first", "second", "third"):
        again.attempt(name, lambda name=name: measured.append(name) or {"ms": 3.0})
    assert measured == ["third"]
    assert read(path)["parts"]["fast"]["errors"] == {"second": "the process ended"}


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown part 'quick'" in done.stderr
