"""Fault injection for sweeps (`make chaos`): a sweep with faults must give the results of the same sweep without.

Start a Ray cluster of several nodes and an MLflow server on this machine and run `eman sweep` on them. Meanwhile,
inject seeded faults: kill processes (-9), remove a node, stop the store, fill the disk, truncate checkpoints. Restart a
killed sweep with the same command, as a user would. Only descendants of this process are ever killed.
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

#: Arguments of the cluster's head node.
HEAD = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1"}

#: Titles of Ray's worker processes: of a Ray Train worker, and of a Tune trial.
WORKER, TRIAL = "ray::RayTrainWorker", "ray::ImplicitFunc"

#: Kinds of faults and their weights. Cheap faults weigh more.
FAULTS = {"worker": 4, "trial": 4, "driver": 2, "node": 2, "store": 2, "disk": 4, "checkpoint": 3}

#: Faults reserved for Ray Train workers: they live for seconds, so a random choice would hardly ever hit one.
RESERVED = 2

#: The process that must be running for a fault to be possible.
NEEDS = {"worker": WORKER, "trial": TRIAL, "disk": TRIAL, "checkpoint": TRIAL}


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Chaos:
    """A cluster, a store and a sweep, and the faults that can be injected into them."""

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
        """Start the server and the cluster: a head node without CPUs and three nodes with one CPU each."""
        (self.folder / "home").mkdir(parents=True)
        self.start_server()
        os.environ.update(self.environment)  # before Ray reads it
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def start_server(self) -> None:
        """Start an MLflow server on a SQLite file and wait until it answers."""
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
        """Start `eman sweep` on the cluster."""
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

    def remaining(self, faults: int) -> int:
        """Return how many of `faults` may be injected now. Some are reserved until workers run."""
        reserved = max(0, RESERVED - self.injected["worker"]) if "worker" in self.weights else 0
        return faults - sum(self.injected.values()) - (0 if self._processes(WORKER) else reserved)

    def inject(self) -> None:
        """Inject one of the faults that are possible now."""
        running = {title: bool(self._processes(title)) for title in (WORKER, TRIAL)}
        weights = {name: weight for name, weight in self.weights.items() if running.get(NEEDS.get(name, ""), True)}
        if not weights:
            return
        name = self.random.choices(list(weights), list(weights.values()))[0]
        if "worker" in weights and self.injected["worker"] < RESERVED:
            name = "worker"  # there may be no later chance
        started = time.monotonic()
        if getattr(self, f"_{name}")():
            self.injected[name] += 1
            print(f"  {sum(self.injected.values()):3}  {name} ({time.monotonic() - started:.0f} s)", flush=True)

    def _kill(self, title: str) -> bool:
        """Kill one of Ray's processes with this title. Return whether there was one."""
        processes = self._processes(title)
        for process in self.random.sample(processes, min(1, len(processes))):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return bool(processes)

    @staticmethod
    def _processes(title: str) -> list[psutil.Process]:
        processes = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    processes.append(process)
        return sorted(processes, key=lambda process: process.pid)

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
        """Limit the size of a trial's files to 8 KB for a few seconds."""
        trials = self._processes(TRIAL)
        if not trials:
            return False
        process = self.random.choice(trials)
        try:
            _, limit = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, limit))
            time.sleep(self.random.uniform(1, 3))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        except ProcessLookupError:
            return False
        return True

    def _checkpoint(self) -> bool:
        """Kill the trials and truncate their checkpoints to half their size."""
        files = [p for p in sorted((self.folder / "home" / "runs").glob("*/resume-*.pt")) if p.stat().st_size]
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

    def find_repeated(self) -> list[str]:
        """Record when each run finished. Return the keys of runs that finished a second time."""
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
        """Inject `faults` faults, then let the sweep finish. Return the keys of repeated runs."""
        deadline, repeated = time.monotonic() + 60 * minutes, set[str]()
        self.start_driver()
        assert self.driver is not None
        while time.monotonic() < deadline:
            self._pause(self.random.uniform(3, 9))
            if self.driver.poll() is None and self.remaining(faults) > 0:
                self.inject()
            if self.driver.poll() is not None:
                repeated.update(self.find_repeated())
                if self.driver.returncode == 0:
                    return repeated
                self.start_driver()
        raise RuntimeError(f"the sweep did not finish within {minutes:g} minutes")

    def _pause(self, seconds: float) -> None:
        """Wait, but return early when the driver ends or a worker can get one of the reserved faults."""
        assert self.driver is not None
        deadline = time.monotonic() + seconds
        while self.driver.poll() is None and time.monotonic() < deadline:
            if "worker" in self.weights and self.injected["worker"] < RESERVED and self._processes(WORKER):
                time.sleep(self.random.uniform(0, 3))  # anywhere from its start to its last epochs
                return
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop every process that was started."""
        for process in (self.driver, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if hasattr(self, "cluster"):
            self.cluster.shutdown()


def read_tables(sweep: Sequence[str], environment: dict[str, str]) -> str:
    """Run a finished sweep's command again and return the tables that it prints."""
    done = subprocess.run(
        [*EMAN, "sweep", *sweep], env=environment, check=True, capture_output=True, text=True, timeout=600
    )
    if "0 trained" not in done.stderr:
        raise RuntimeError(f"the sweep was not complete:\n{done.stderr}")
    return done.stdout


def numbers(store_uri: str) -> dict[tuple[str, str], float]:
    """Return every result in a store by run key and metric name.

    Leave out times, and means over an epoch's steps, whose order of summation changes after an interruption.
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
    """Run the sweep without and with faults, and print a report. Return 0 if the results are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0, help="time limit of the sweep with faults")
    parser.add_argument("--sweep", default="table1 table8", help="arguments of `eman sweep`")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args(arguments)
    sweep = [*options.sweep.split(), "--profile", "smoke", "--set", f"epochs={options.epochs}"]
    folder = Path(tempfile.mkdtemp(prefix="chaos"))
    environment = {**os.environ, "EMAN_HOME": str(folder / "reference")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    print("sweep without faults", flush=True)
    started = time.monotonic()
    subprocess.run([*EMAN, "sweep", *sweep], env=environment, check=True, capture_output=True)
    expected = read_tables(sweep, environment), numbers(f"sqlite:///{folder / 'reference' / 'mlflow.db'}")
    print(f"  {time.monotonic() - started:.0f} s\nsweep with faults, seed {options.seed}", flush=True)
    chaos = Chaos(folder, sweep, options.seed, options.kinds)
    started = time.monotonic()
    try:
        chaos.start()
        repeated = chaos.run(options.faults, options.minutes)
        seconds = time.monotonic() - started
        actual = read_tables(sweep, chaos.environment), numbers(chaos.environment["MLFLOW_TRACKING_URI"])
        code = report(chaos, options.faults, expected, actual, repeated, seconds)
    except Exception:
        for log in sorted(folder.glob("driver*.log"))[-2:]:
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        print(f"logs and stores are in {folder}")
        raise
    finally:
        chaos.stop()
    shutil.rmtree(folder, ignore_errors=True)
    return code


def report(
    chaos: Chaos,
    faults: int,
    expected: tuple[str, dict[tuple[str, str], float]],
    actual: tuple[str, dict[tuple[str, str], float]],
    repeated: set[str],
    seconds: float,
) -> int:
    """Print what happened. Return 0 if nothing was lost, repeated or changed."""
    from eman.platform.store.records import EVALUATION, TRAINING
    from eman.platform.store.store import Store

    store = Store(chaos.environment["MLFLOW_TRACKING_URI"])
    records = [*store.records(TRAINING), *store.records(EVALUATION)]
    missing = {key for key, _ in expected[1].keys() - actual[1].keys()}
    lost = sum(record.status != "done" for record in records) + len(missing)
    doubled = len(records) - len({record.key for record in records})
    steps = 0
    for record in records:
        history = [m.step for m in store.client.get_metric_history(record.run_id, "train/loss")]
        steps += len(history) - len(set(history))
    changed = [name for name, value in expected[1].items() if actual[1].get(name) != value]
    total = sum(chaos.injected.values())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(chaos.injected.items()))
    same = actual[0] == expected[0]
    print(f"faults injected    {total} of {faults} ({kinds})")
    print(f"launches           {chaos.launches}, {seconds:.0f} s")
    print(f"runs lost          {lost}")
    print(f"runs repeated      {len(repeated)}")
    print(f"duplicate runs     {doubled}")
    print(f"duplicate steps    {steps}")
    print(f"tables identical   {'yes' if same else 'no'}")
    print(f"numbers identical  {len(expected[1]) - len(changed)} of {len(expected[1])}")
    for name in changed[:10]:
        print(f"  {name[0]} {name[1]}: {expected[1][name]} without faults, {actual[1].get(name)} with")
    return int(total < faults or bool(lost or repeated or doubled or steps or changed) or not same)


if __name__ == "__main__":
    sys.exit(main())
