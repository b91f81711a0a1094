"""The benchmarks' command line; what they measure is no test's business."""

import subprocess
import sys
from pathlib import Path


def test_an_unknown_benchmark_is_one_line_and_code_2() -> None:
    script = Path(__file__).with_name("bench.py")
    done = subprocess.run(
        [sys.executable, str(script), "knn", "resnet81"], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")  # nothing is measured first
    assert done.stderr.startswith("bench: unknown benchmark 'resnet81'; did you mean 'resnet18'?")
    assert done.stderr.count("\n") == 1
