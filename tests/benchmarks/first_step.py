"""How long a sweep takes to begin: wall seconds from `eman sweep` to the first training step.

Run it on an idle machine: `python tests/benchmarks/first_step.py`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = ("sweep", "grid", "--method", "moco", "--scheme", "bn", "--profile", "quick")


def first_step(home: Path) -> float:
    """Run the sweep in a fresh work folder and return the seconds.

    The store tells when the first epoch ended and how many images a second it had; its first step was that long before.
    """
    from mlflow import MlflowClient

    launched = time.time()
    subprocess.run(
        [sys.executable, "-m", "eman", *SWEEP],
        env={**os.environ, "EMAN_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("eman")
    began = []
    for run in client.search_runs([experiment.experiment_id]):
        for metric in client.get_metric_history(run.info.run_id, "train/images_per_second")[:1]:
            batch = int(run.data.params["batch"])
            images = int(run.data.params["images"]) // batch * batch
            began.append(metric.timestamp / 1000 - images / metric.value)
    return min(began) - launched


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(f"eman {' '.join(SWEEP)}: first training step after {first_step(Path(folder)):.1f} s")
