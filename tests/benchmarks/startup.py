"""What commands cost before they do their work: `make bench-start`. Nothing here passes or fails.

For each command: processor seconds (user and system), seconds by the clock, the most memory, and which of the large
libraries it has imported. The store is that of a smoke sweep of Tables 1 and 8, or of the folder that is given.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

LARGE = ("torch", "torchvision", "ray", "mlflow", "pandas", "matplotlib", "numba", "sklearn")
COMMANDS = (
    ("--help",),
    ("table", "1", "8", "--profile", "smoke"),
    ("status",),
    ("plan", "table1", "--profile", "smoke"),
    ("figure", "3", "--profile", "smoke", "--out", "figure3.svg"),
    ("report", "--out", "report.html"),
    ("sweep", "table1", "table8", "--profile", "smoke", "--dry-run"),
)
ROUNDS = 3

#: Runs a command in this process, and writes which libraries it has imported.
RUN = f"""
import json, sys
from eman.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as error:
    code = error.code
with open(sys.argv[1], "w") as file:
    json.dump([name for name in {LARGE!r} if name in sys.modules], file)
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """What one call of a command has cost."""

    processor: float
    clock: float
    megabytes: float
    imported: tuple[str, ...]


def cost(environment: Mapping[str, str], command: tuple[str, ...]) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "imported.json"
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(imported), *command],
            env={**os.environ, **environment},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        clock = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"eman {' '.join(command)}: {errors}")
        names = tuple(json.loads(imported.read_text()))
    return Cost(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss / 1024, names)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(arguments[0] if arguments else folder)
        if not arguments:
            sweep = [sys.executable, "-m", "eman", "sweep", "table1", "table8", "--profile", "smoke"]
            subprocess.run(sweep, check=True, env={**os.environ, "EMAN_HOME": folder}, stdout=subprocess.DEVNULL)
        for command in COMMANDS:
            costs = [cost({"EMAN_HOME": str(home)}, command) for _ in range(ROUNDS)]
            processor, clock, memory = (
                median(getattr(c, field) for c in costs) for field in ("processor", "clock", "megabytes")
            )
            imported = ", ".join(costs[0].imported) or "nothing large"
            print(
                f"eman {' '.join(command):<55} {processor:5.2f} s CPU  {clock:5.2f} s  {memory:5,.0f} MB  {imported}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
