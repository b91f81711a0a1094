"""A sweep disturbed on purpose: `make chaos`. It ends with the tables of the undisturbed sweep, or says what differs.

A several-node Ray cluster and an MLflow server are started on this machine for it. While `eman sweep` runs on them,
seeded faults strike: processes are killed (-9), a node is taken away, the store is stopped, disks are full, checkpoints
are cut short. A sweep that has been killed is given again, as a person would. Only processes that descend from this one
are ever touched.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from eman.platform.tracking import EVALUATION, TRAINING, Store

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex(), "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}

EMAN = [sys.executable, "-m", "eman"]

#: Faults, and how often each is drawn: cheap ones more often.
FAULTS = {"worker": 3, "trial": 4, "driver": 2, "node": 2, "store": 2, "disk": 4, "checkpoint": 3}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Chaos:
    """The machinery that is disturbed, and the faults."""

    def __init__(self, folder: Path, sweep: list[str], seed: int) -> None:
        self.folder, self.sweep = folder, sweep
        self.random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.server: subprocess.Popen[bytes] | None = None
        self.driver: subprocess.Popen[bytes] | None = None
        self.launches = 0
        self.port = free_port()
        self.finished: dict[str, float] = {}
        self.environment = {
            **os.environ,
            "EMAN_HOME": str(folder / "home"),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
            "EMAN_CHECKPOINT_SECONDS": "0.3",
        }

    def start(self) -> None:
        """Server and cluster: a head without CPUs, and nodes of one CPU each."""
        from ray.cluster_utils import Cluster

        (self.folder / "home").mkdir(parents=True)
        self.start_server()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
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
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
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
            [*EMAN, "sweep", *self.sweep, "--address", self.cluster.address, "--retries", "3"],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def strike(self) -> None:
        """One fault, if what it needs is there now."""
        name = self.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        if getattr(self, f"_{name}")():
            self.injected[name] += 1
            print(f"  {sum(self.injected.values()):3}  {name}", flush=True)

    def _processes(self, title: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _kill(self, title: str) -> bool:
        found = self._processes(title)
        if found:
            self.random.choice(found).kill()
        return bool(found)

    def _worker(self) -> bool:
        return self._kill("ray::RayTrainWorker")

    def _trial(self) -> bool:
        return self._kill("ray::ImplicitFunc")

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
        """A process that finds no room for more than 8 KB of a file, for a few seconds."""
        found = self._processes("ray::ImplicitFunc")
        if not found:
            return False
        process = self.random.choice(found)
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, most))
        time.sleep(self.random.uniform(1, 3))
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        return True

    def _checkpoint(self) -> bool:
        """The newest checkpoint of a run is cut short, and the process that would have written the next one killed."""
        files = list((self.folder / "home" / "runs").glob("*/resume.pt"))
        if not files or not self._kill("ray::ImplicitFunc"):
            return False
        path = self.random.choice(files)
        try:
            size = path.stat().st_size
            os.truncate(path, size // 2)
        except FileNotFoundError:
            return False
        return True

    def watch(self) -> list[str]:
        """Remembers when each run was finished; returns the keys of runs that were finished before and again."""
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
            time.sleep(self.random.uniform(2, 5))
            if self.driver.poll() is None and sum(self.injected.values()) < faults:
                self.strike()
            if self.driver.poll() is not None:
                repeated.update(self.watch())
                if self.driver.returncode == 0 and sum(self.injected.values()) >= faults:
                    return repeated
                if self.driver.returncode == 0:
                    print("  the sweep ended before all faults had struck", flush=True)
                    return repeated
                self.start_driver()
        raise RuntimeError(f"not done after {minutes:g} minutes; see {self.folder}")

    def stop(self) -> None:
        """Everything that was started, by its own process."""
        for process in (self.driver, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.cluster.shutdown()


def table(sweep: list[str], environment: dict[str, str]) -> str:
    """The sweep's tables as CSV, from the store."""
    numbers = [word.removeprefix("table") for word in sweep if word.startswith("table")]
    options = sweep[sweep.index("--profile") :]
    command = [*EMAN, "table", *numbers, *options, "--format", "csv"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Prints the report; the exit code says whether the sweep came through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0, help="bound on the disturbed sweep")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("tables", nargs="*", default=["table1", "table8"])
    arguments = parser.parse_args()
    sweep = [*arguments.tables, "--profile", "smoke", "--set", f"epochs={arguments.epochs}"]
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        calm = {**os.environ, "EMAN_HOME": str(folder / "calm")}
        calm.pop("MLFLOW_TRACKING_URI", None)
        print("undisturbed sweep", flush=True)
        started = time.monotonic()
        subprocess.run([*EMAN, "sweep", *sweep], env=calm, check=True, capture_output=True)
        expected = table(sweep, calm)
        print(f"  {time.monotonic() - started:.0f} s\ndisturbed sweep, seed {arguments.seed}", flush=True)
        chaos = Chaos(folder, sweep, arguments.seed)
        started = time.monotonic()
        chaos.start()
        try:
            repeated = chaos.run(arguments.faults, arguments.minutes)
            seconds = time.monotonic() - started
            found = table(sweep, chaos.environment)
            return report(chaos, expected, found, repeated, seconds)
        except Exception:
            for log in sorted(folder.glob("driver*.log"))[-2:]:
                print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            raise
        finally:
            chaos.stop()


def report(chaos: Chaos, expected: str, found: str, repeated: set[str], seconds: float) -> int:
    """Prints what happened; 0 if nothing was lost, repeated or changed."""
    store = Store(chaos.environment["MLFLOW_TRACKING_URI"])
    records = store.records(TRAINING)
    lost = sum(record.status != "done" for record in [*records, *store.records(EVALUATION)])
    lost += sum(line.split(",")[6] != "done" for line in found.splitlines()[1:])
    doubled = len(records) - len({record.key for record in records})
    steps = 0
    for record in records:
        history = [m.step for m in store.client.get_metric_history(record.run_id, "train/loss")]
        steps += len(history) - len(set(history))
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(chaos.injected.items()))
    same = found == expected
    print(f"faults injected    {sum(chaos.injected.values())} ({kinds})")
    print(f"launches           {chaos.launches}, {seconds:.0f} s")
    print(f"runs lost          {lost}")
    print(f"runs repeated      {len(repeated)}")
    print(f"duplicate runs     {doubled}")
    print(f"duplicate steps    {steps}")
    print(f"tables identical   {'yes' if same else 'no'}")
    if not same:
        for before, after in zip(expected.splitlines(), found.splitlines(), strict=False):
            if before != after:
                print(f"  expected {before}\n  found    {after}")
    return int(bool(lost or repeated or doubled or steps or not same))


if __name__ == "__main__":
    sys.exit(main())
