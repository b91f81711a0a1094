"""`deploy/slurm/sweep.sh` under a real Slurm: two nodes that are this machine."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "slurm" / "sweep.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/controller.pid
SlurmctldLogFile={folder}/controller.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1
PartitionName=short Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=other Nodes=ALL MaxTime=INFINITE State=UP
"""


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(met: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


class Slurm:
    """A cluster of two nodes, and what its users type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:/usr/sbin:{os.environ['PATH']}"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, **changed: str) -> str:
        done = subprocess.run(
            command,
            env={**self.environment, **changed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        controller, first, second = free_ports(3)
        (self.folder / "state").mkdir()
        values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": self.folder}
        ports = {"controller": controller, "first": first, "second": second}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values, **ports))
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o600)
        munge = {"key-file": "key", "socket": "munge.sock", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={self.folder / file}" for name, file in munge.items()]
        self._start("munged", "--force", "--foreground", *options, f"--log-file={self.folder / 'munge.log'}")
        until((self.folder / "munge.sock").exists, 20, "munged did not start")
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        until(self.is_idle, 60, "Slurm did not start")

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            self._daemons.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def is_idle(self) -> bool:
        command = ["sinfo", "--noheader", "--Node", "--partition", "short", "--format", "%t"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.split() == ["idle", "idle"]

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=60)

    def submit(self, *words: str, options: tuple[str, ...] = (), **changed: str) -> str:
        """Submit the script as README says, and return the job's number."""
        log = f"--output={self.folder}/%j.log"
        out = self.run(
            "sbatch",
            "--parsable",
            log,
            *options,
            str(SCRIPT),
            *words,
            SBATCH_PARTITION="short",
            SBATCH_ACCOUNT="lab",
            **changed,
        )
        return out.strip()

    def state(self, job: str) -> str:
        return re.findall(r"JobState=(\w+)", self.run("scontrol", "show", "job", job))[0]

    def log(self, job: str) -> str:
        file = self.folder / f"{job}.log"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    path = f"/usr/sbin:{os.environ['PATH']}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; `make services` installs Debian's packages")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        started = Slurm(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """The variables of somebody who calls sbatch; the nodes are one machine, so that a SQLite file serves both."""
    store = {"EMAN_HOME": str(home), "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    return store | {"EMAN_CHECKPOINT_SECONDS": "0.2"}


def statuses(environment: dict[str, str], kind: str = TRAINING) -> list[str]:
    workspace = Workspace(environment["EMAN_HOME"], store=environment["MLFLOW_TRACKING_URI"])
    return [record.status for record in Store(workspace).records(kind)]


def check_nothing_is_left(slurm: Slurm, job: str) -> None:
    assert not Path(f"/tmp/ray-{job}").exists()
    assert not Path(f"/tmp/ray-{job}.log").exists()
    arguments = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True, timeout=30).stdout
    assert f"/tmp/ray-{job}/" not in arguments
    until(slurm.is_idle, 60, "the nodes are not free")


@pytest.mark.slow
@pytest.mark.timeout(900)  # with the sweep that it is compared with
def test_a_job_that_hits_its_time_limit_is_requeued_and_comes_to_the_same_table(
    slurm: Slurm, environment: dict[str, str], swept: Path
) -> None:
    job = slurm.submit("table1", "--profile", "smoke", options=("--time=30", "--signal=B:USR1@100"), **environment)
    until(lambda: "done" in statuses(environment), 180, slurm.log(job))
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # of which less than 100 s are left
    until(lambda: "is requeued and continues" in slurm.log(job), 120, "the job was not told")
    assert "running" not in statuses(environment)
    first = statuses(environment).count("done")
    assert 0 < first < 19
    until(lambda: slurm.state(job) == "PENDING", 60, "the job was not requeued")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    until(lambda: slurm.state(job) == "COMPLETED", 400, slurm.log(job))
    log = slurm.log(job)
    assert f"{19 - first} trained, {first} reused" in log
    assert "x 2 cores)" in log  # both nodes took part
    said = [line for line in log.splitlines() if line.startswith(("srun", "slurmstepd"))]
    assert all("DUE TO JOB REQUEUE" in line for line in said), said
    assert not re.search(r"ray start|Local node IP|Ray runtime|raylet|Traceback", log)
    check_nothing_is_left(slurm, job)
    table = [sys.executable, "-m", "eman", "table", "1", "--profile", "smoke", "--format", "csv"]
    theirs = {"EMAN_HOME": str(swept), "MLFLOW_TRACKING_URI": f"sqlite:///{swept}/mlflow.db"}
    assert slurm.run(*table, **environment) == slurm.run(*table, **theirs)


@pytest.mark.slow
def test_a_cancelled_job_ends_soon_and_leaves_nothing(slurm: Slurm, environment: dict[str, str]) -> None:
    words = ("grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke", "--set", "epochs=500")
    job = slurm.submit(*words, options=("--time=30",), **environment)
    until(lambda: "running" in statuses(environment), 180, slurm.log(job))
    cancelled = time.monotonic()
    slurm.run("scancel", job)
    until(lambda: slurm.state(job) == "CANCELLED" and slurm.is_idle(), 60, "the job did not end")
    assert time.monotonic() - cancelled < 30  # after 30 s Slurm kills what is left
    assert "interrupted" in slurm.log(job)
    assert "running" not in statuses(environment) + statuses(environment, SWEEP)
    check_nothing_is_left(slurm, job)


@pytest.mark.slow
def test_the_script_loads_modules_and_runs_in_an_image(
    slurm: Slurm, environment: dict[str, str], tmp_path: Path
) -> None:
    """Neither is here: what the script asks of both is recorded."""
    asked = tmp_path / "asked"
    (tmp_path / "apptainer").write_text(f'#!/bin/bash\necho "$@" >> {asked}\nexit 3\n')
    (tmp_path / "apptainer").chmod(0o755)
    (tmp_path / "eman.sif").touch()
    given = {
        **environment,
        "PATH": f"{tmp_path}:{slurm.environment['PATH']}",
        "BASH_FUNC_module%%": f'() {{ echo "module $@" >> {asked}; }}',
        "EMAN_LOAD_MODULES": "python/3.11 cuda/13",
        "EMAN_APPTAINER_IMAGE": str(tmp_path / "eman.sif"),
    }
    job = slurm.submit("table1", options=("--nodes=1", "--time=5"), **given)
    until(lambda: slurm.state(job) == "FAILED", 60, slurm.log(job))
    assert "Ray has not started on all of 1 nodes" in slurm.log(job)
    assert {"Partition=short", "Account=lab"} <= set(slurm.run("scontrol", "show", "job", job).split())
    lines = asked.read_text().splitlines()
    assert lines[0] == "module load python/3.11 cuda/13"
    folders = f"exec --bind {ROOT} --bind /tmp --bind {environment['EMAN_HOME']} {tmp_path / 'eman.sif'}"
    assert any(line.startswith(f"{folders} ray start --head --block") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "said"), [("EMAN_APPTAINER_IMAGE", "is no file"), ("EMAN_LOAD_MODULES", "has no command `module`")]
)
def test_a_variable_that_cannot_be_followed_is_named(
    variable: str, said: str, slurm: Slurm, environment: dict[str, str]
) -> None:
    job = slurm.submit("table1", options=("--nodes=1", "--time=5"), **environment, **{variable: "/nowhere"})
    until(lambda: slurm.state(job) == "FAILED", 60, slurm.log(job))
    assert said in slurm.log(job)
