"""The short form of `make chaos`."""

import subprocess
import sys
from pathlib import Path


def test_a_disturbed_sweep_ends_with_the_same_table() -> None:
    script = Path(__file__).with_name("chaos.py")
    command = [sys.executable, str(script), "--faults", "5", "--minutes", "7", "--seed", "1", "--epochs", "4", "table1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs lost          0" in done.stdout
    assert "runs repeated      0" in done.stdout
    assert "tables identical   yes" in done.stdout
