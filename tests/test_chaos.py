"""The short form of `make chaos`: a small sweep with a few faults gives the results of the same sweep without."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_with_faults_gives_the_results_of_one_without() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("chaos.py")), "--seed", "1", "--minutes", "8"),
            *("--sweep", "grid --method moco,byol --scheme bn,eman,syncbn", "--epochs", "4", "--faults", "6"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs lost          0" in done.stdout
    assert "tables identical   yes" in done.stdout
