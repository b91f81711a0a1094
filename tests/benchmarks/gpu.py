"""The benchmark for one GPU: `make gpu`, or `python tests/benchmarks/gpu.py PART...` for some of its parts.

It needs neither Ray nor MLflow nor a network, and runs from the repository without installation. Results are written to
a JSON file as they come, and a table is printed at the end. Each part runs in a process of its own; if that dies, a new
one continues after the configuration that killed it. `--dry` runs everything tiny in this process, on a CPU too.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for _folder in (str(HERE), str(HERE.parent.parent)):
    if _folder not in sys.path:
        sys.path.append(_folder)

#: Parts in the order in which they run, and their share of the time.
SHARES = {"ceilings": 15, "right": 110, "fast": 190, "small": 75, "profile": 30}

#: Seconds after its share at which a part's process is ended, and how often a part that died is started again.
GRACE, RESTARTS = 20, 3

#: The interface for processes that train together: the machine may have no other.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def arguments(command: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Benchmark on one GPU.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(SHARES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file of the results (gpu.json)")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for everything (420)")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, in this process: a test that everything runs")
    parser.add_argument("--apart", action="store_true", help="with --dry: run parts in processes of their own even so")
    parser.add_argument("--keep", action="store_true", help="continue the results in --out; else start anew")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print the table of these results")
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)  # run one part here, with so many seconds
    found = parser.parse_args(command)
    unknown = [part for part in found.parts if part not in SHARES]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; the parts are {', '.join(SHARES)}")
    if found.budget <= 0:
        parser.error(f"--budget is {found.budget:g}; give a number of seconds above 0")
    return found


def run_part(part: str, out: Path, seconds: float, *, dry: bool) -> None:
    """Run one part in this process."""
    from gpu_parts import ceilings
    from gpu_parts.report import Report

    report = Report(out, part, seconds)
    report.results["about"] |= ceilings.about()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if part == "ceilings":
            ceilings.measure(report, dry=dry)
        elif part == "right":
            from gpu_parts import right

            right.measure(report, home, dry=dry)
        elif part == "fast":
            from gpu_parts import fast

            fast.measure(report, home, dry=dry)
        elif part == "small":
            from gpu_parts import small

            small.measure(report, home, dry=dry)
        else:
            from gpu_parts import where

            where.measure(report, home, dry=dry)
    report.write()


def start_part(part: str, out: Path, seconds: float, *, dry: bool) -> None:
    """Run one part in a process of its own, and start it again if it dies; end it if it takes too long."""
    deadline = time.monotonic() + seconds
    for _ in range(1 + RESTARTS):
        left = deadline - time.monotonic()
        command = [sys.executable, str(HERE / "gpu.py"), part, "--out", str(out), "--inside", f"{left:.1f}"]
        command += ["--dry"] if dry else []
        process = subprocess.Popen(command, start_new_session=True, env={**LOOPBACK, **os.environ})
        try:
            code = process.wait(max(left, 0) + GRACE)
        except subprocess.TimeoutExpired:
            code = None
            settle(out, part, f"ended, {GRACE} s after the part's time was over")
        finally:
            _end(process)
        if code in (0, None) or deadline - time.monotonic() < 5:
            return
        print(f"{part}: the process ended with code {code}; starting again", flush=True)


def settle(out: Path, part: str, reason: str) -> None:
    """Record why the configuration that was running has no result."""
    from gpu_parts import report

    print(f"{part}: {reason}", flush=True)
    results = report.read(out)
    name = results["parts"].get(part, {}).pop("running", None)
    if name is not None:
        results["parts"][part]["errors"][name] = reason
        report.write(out, results)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def about(command: list[str]) -> dict[str, Any]:
    """Return what the results come from."""
    try:
        git = ["git", "-C", str(HERE)]
        ask = partial(subprocess.run, capture_output=True, text=True, check=True)
        revision = ask([*git, "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        if ask([*git, "status", "--porcelain"]).stdout.strip():
            revision += " with changes"
    except (OSError, subprocess.CalledProcessError):
        revision = "unknown"
    return {"date": date.today().isoformat(), "revision": revision, "command": shlex.join(command)}


def main(command: list[str] | None = None) -> int:
    """Run the parts, each with its share of the time that is left."""
    asked = arguments(command)
    if asked.inside is not None:
        run_part(asked.parts[0], asked.out, asked.inside, dry=asked.dry)
        sys.stdout.flush()
        os._exit(0)  # without waiting for processes that have no time left
    started = time.monotonic()
    import torch
    from gpu_parts import report, table

    if asked.table:
        print(table.render(table.merged([report.read(path) for path in asked.table])))
        return 0
    if not asked.keep:
        asked.out.unlink(missing_ok=True)
    results = report.read(asked.out)
    results["about"] |= about(["python", "tests/benchmarks/gpu.py", *(sys.argv[1:] if command is None else command)])
    report.write(asked.out, results)
    parts = [part for part in SHARES if part in asked.parts or not asked.parts]
    for number, part in enumerate(parts):
        left = asked.budget - (time.monotonic() - started)
        seconds = left * SHARES[part] / sum(SHARES[later] for later in parts[number:])
        print(f"{part}: up to {seconds:.0f} s", flush=True)
        if asked.dry and not asked.apart:
            torch.set_num_threads(1)  # so that the process can fork
            run_part(part, asked.out, seconds, dry=True)
        else:
            start_part(part, asked.out, seconds, dry=asked.dry)
    print(f"\n{table.render(report.read(asked.out))}\n{time.monotonic() - started:.0f} s; {asked.out}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
