"""A sweep disturbed on purpose: `make chaos`. It ends with the numbers of the undisturbed sweep, or says what differs.

A Ray cluster of several nodes and an MLflow server are started on this machine for it. While `eman sweep` runs on them,
seeded faults strike: processes are killed (-9), a node is taken away, the store is stopped, disks are full, checkpoints
are cut short. A sweep that has been killed is given again, as a person would. Only processes that descend from this one
are ever touched.
"""

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

EMAN = [sys.executable, "-m", "eman"]

#: The head of the cluster.
HEAD = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1"}

#: Titles of Ray's processes.
WORKER, TRIAL = "ray::RayTrainWorker", "ray::ImplicitFunc"

#: Faults, and how often each is drawn: cheap ones more often.
FAULTS = {"worker": 4, "trial": 4, "driver": 2, "node": 2, "store": 2, "disk": 4, "checkpoint": 3}

#: Faults kept for the workers of a Ray Train run: few runs have several, they live for seconds, and the lottery would
#: hardly ever strike them.
KEPT = 2

#: What a fault needs a process of.
NEEDS = {"worker": WORKER, "trial": TRIAL, "disk": TRIAL, "checkpoint": TRIAL}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Chaos:
    """The machinery that is disturbed, and the faults."""

    def __init__(self, folder: Path, sweep: Sequence[str], seed: int, kinds: Sequence[str]) -> None:
        self.folder, self.sweep = folder, sweep
        self.random = random.Random(seed)
        self.weights = {name: FAULTS[name] for name in kinds}
        self.injected: Counter[str] = Counter()
        self.server: subprocess.Popen[bytes] | None = None
        self.driver: subprocess.Popen[bytes] | None = None
        self.launches = 0
        self.port = free_port()
        self.finished: dict[str, float] = {}
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.urandom(32).hex(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            "EMAN_HOME": str(folder / "home"),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
            "EMAN_CHECKPOINT_SECONDS": "0.3",
        }

    def start(self) -> None:
        """Server and cluster: a head without CPUs, and nodes of one CPU each."""
        (self.folder / "home").mkdir(parents=True)
        self.start_server()
        os.environ.update(self.environment)  # before Ray reads it
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def start_server(self) -> None:
        """MLflow's server on a SQLite file; returns when it answers."""
        self.server = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1"),
                *("--port", str(self.port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self.folder / "artifacts")),
            ],
            env={**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.3)
        raise RuntimeError("the MLflow server did not start")

    def start_driver(self) -> None:
        """`eman sweep` on the cluster."""
        self.launches += 1
        log = (self.folder / f"driver{self.launches}.log").open("wb")
        self.driver = subprocess.Popen(
            [*EMAN, "sweep", *self.sweep, "--address", self.cluster.address, "--retries", "3", "--wait", "60"],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def left(self, faults: int) -> int:
        """How many of that many faults may strike now: some are kept until there are workers."""
        kept = max(0, KEPT - self.injected["worker"]) if "worker" in self.weights else 0
        return faults - sum(self.injected.values()) - (0 if self._processes(WORKER) else kept)

    def strike(self) -> None:
        """One of the faults that can strike now."""
        there = {title: bool(self._processes(title)) for title in (WORKER, TRIAL)}
        weights = {name: weight for name, weight in self.weights.items() if there.get(NEEDS.get(name, ""), True)}
        if not weights:
            return
        name = self.random.choices(list(weights), list(weights.values()))[0]
        if "worker" in weights and self.injected["worker"] < KEPT:
            name = "worker"  # the chance may not come again
        started = time.monotonic()
        if getattr(self, f"_{name}")():
            self.injected[name] += 1
            print(f"  {sum(self.injected.values()):3}  {name} ({time.monotonic() - started:.0f} s)", flush=True)

    def _kill(self, title: str) -> bool:
        """Kills one of Ray's processes of that title; returns whether there was one."""
        found = self._processes(title)
        for process in self.random.sample(found, min(1, len(found))):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return bool(found)

    @staticmethod
    def _processes(title: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def _worker(self) -> bool:
        return self._kill(WORKER)

    def _trial(self) -> bool:
        return self._kill(TRIAL)

    def _driver(self) -> bool:
        assert self.driver is not None
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        return True

    def _node(self) -> bool:
        node = self.random.choice(self.nodes)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        return True

    def _store(self) -> bool:
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        time.sleep(self.random.uniform(2, 6))
        self.start_server()
        return True

    def _disk(self) -> bool:
        """A process finds no room for more than 8 KB of a file, for a few seconds."""
        found = self._processes(TRIAL)
        if not found:
            return False
        process = self.random.choice(found)
        try:
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, most))
            time.sleep(self.random.uniform(1, 3))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        except ProcessLookupError:
            return False
        return True

    def _checkpoint(self) -> bool:
        """The newest checkpoint of a run is cut short just when its process dies."""
        files = [p for p in sorted((self.folder / "home" / "runs").glob("*/resume.pt")) if p.stat().st_size]
        trials = self._processes(TRIAL)
        if not files or not trials:
            return False
        for process in trials:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.truncate(path, path.stat().st_size // 2)
        return True

    def watch(self) -> list[str]:
        """Remembers when each run was finished; returns the keys of runs that were finished before and again."""
        from eman.platform.store.records import EVALUATION, TRAINING
        from eman.platform.store.store import Store

        store = Store(self.environment["MLFLOW_TRACKING_URI"])
        repeated = []
        for record in [*store.records(TRAINING), *store.records(EVALUATION)]:
            if record.key in self.finished and self.finished[record.key] != record.end:
                repeated.append(record.key)
            if record.status == "done":
                self.finished[record.key] = record.end
        return repeated

    def run(self, faults: int, minutes: float) -> set[str]:
        """Strikes until there have been that many faults, then lets the sweep end. Returns what was repeated."""
        deadline, repeated = time.monotonic() + 60 * minutes, set[str]()
        self.start_driver()
        assert self.driver is not None
        while time.monotonic() < deadline:
            self._pause(self.random.uniform(3, 9))
            if self.driver.poll() is None and self.left(faults) > 0:
                self.strike()
            if self.driver.poll() is not None:
                repeated.update(self.watch())
                if self.driver.returncode == 0:
                    return repeated
                self.start_driver()
        raise RuntimeError(f"not done after {minutes:g} minutes")

    def _pause(self, seconds: float) -> None:
        """Waits, but not beyond the driver's end, and hardly when a worker is there that has to be struck."""
        assert self.driver is not None
        deadline = time.monotonic() + seconds
        while self.driver.poll() is None and time.monotonic() < deadline:
            if "worker" in self.weights and self.injected["worker"] < KEPT and self._processes(WORKER):
                time.sleep(self.random.uniform(0, 3))  # while it joins, in its first epochs, in later ones
                return
            time.sleep(0.2)

    def stop(self) -> None:
        """Everything that was started, by its own process."""
        for process in (self.driver, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if hasattr(self, "cluster"):
            self.cluster.shutdown()


def sweep_again(sweep: Sequence[str], environment: dict[str, str]) -> str:
    """What the sweep prints when there is nothing left to do: its tables."""
    done = subprocess.run(
        [*EMAN, "sweep", *sweep], env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    if "0 trained" not in done.stderr:
        raise RuntimeError(f"there was something left to do:\n{done.stderr}")
    return done.stdout


def numbers(store_uri: str) -> dict[tuple[str, str], float]:
    """Every result in a store to the last digit, by key and name; not times, and not the means over an epoch's steps,
    which several workers add up in another order after an interruption.
    """
    from eman.platform.store.records import EVALUATION, TRAINING
    from eman.platform.store.store import Store

    store = Store(store_uri)
    return {
        (record.key, name): value
        for record in [*store.records(TRAINING), *store.records(EVALUATION)]
        for name, value in record.metrics.items()
        if name.split("/")[0] not in ("train", "system") and "seconds" not in name
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; the exit code says whether the sweep came through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0, help="bound on the disturbed sweep")
    parser.add_argument("--sweep", default="table1 table8", help="what to sweep, at profile smoke")
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args(arguments)
    sweep = [*given.sweep.split(), "--profile", "smoke", "--set", f"epochs={given.epochs}"]
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    calm = {**os.environ, "EMAN_HOME": str(folder / "calm")}
    calm.pop("MLFLOW_TRACKING_URI", None)
    print("undisturbed sweep", flush=True)
    started = time.monotonic()
    subprocess.run([*EMAN, "sweep", *sweep], env=calm, check=True, capture_output=True)
    expected = sweep_again(sweep, calm), numbers(f"sqlite:///{folder / 'calm' / 'mlflow.db'}")
    print(f"  {time.monotonic() - started:.0f} s\ndisturbed sweep, seed {given.seed}", flush=True)
    chaos = Chaos(folder, sweep, given.seed, given.kinds)
    started = time.monotonic()
    try:
        chaos.start()
        repeated = chaos.run(given.faults, given.minutes)
        seconds = time.monotonic() - started
        found = sweep_again(sweep, chaos.environment), numbers(chaos.environment["MLFLOW_TRACKING_URI"])
        code = report(chaos, given.faults, expected, found, repeated, seconds)
    except Exception:
        for log in sorted(folder.glob("driver*.log"))[-2:]:
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        print(f"left for a look: {folder}")
        raise
    finally:
        chaos.stop()
    shutil.rmtree(folder, ignore_errors=True)
    return code


def report(
    chaos: Chaos,
    faults: int,
    expected: tuple[str, dict[tuple[str, str], float]],
    found: tuple[str, dict[tuple[str, str], float]],
    repeated: set[str],
    seconds: float,
) -> int:
    """Prints what happened; 0 if nothing was lost, repeated or changed."""
    from eman.platform.store.records import EVALUATION, TRAINING
    from eman.platform.store.store import Store

    store = Store(chaos.environment["MLFLOW_TRACKING_URI"])
    records = [*store.records(TRAINING), *store.records(EVALUATION)]
    lost = sum(record.status != "done" for record in records) + len({key for key, _ in expected[1].keys() - found[1]})
    doubled = len(records) - len({record.key for record in records})
    steps = 0
    for record in records:
        history = [m.step for m in store.client.get_metric_history(record.run_id, "train/loss")]
        steps += len(history) - len(set(history))
    changed = [name for name, value in expected[1].items() if found[1].get(name) != value]
    total = sum(chaos.injected.values())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(chaos.injected.items()))
    same = found[0] == expected[0]
    print(f"faults injected    {total} of {faults} ({kinds})")
    print(f"launches           {chaos.launches}, {seconds:.0f} s")
    print(f"runs lost          {lost}")
    print(f"runs repeated      {len(repeated)}")
    print(f"duplicate runs     {doubled}")
    print(f"duplicate steps    {steps}")
    print(f"tables identical   {'yes' if same else 'no'}")
    print(f"numbers identical  {len(expected[1]) - len(changed)} of {len(expected[1])}")
    for name in changed[:10]:
        print(f"  {name[0]} {name[1]}: {expected[1][name]} undisturbed, {found[1].get(name)} disturbed")
    return int(total < faults or bool(lost or repeated or doubled or steps or changed) or not same)


if __name__ == "__main__":
    sys.exit(main())
