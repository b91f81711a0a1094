"""Fixtures that tests share. Every test gets a home folder of its own and one thread, as a run of one worker has.

Expensive resources are created once per test run: a finished sweep (`grid`, small; `swept`, whole tables; both for slow
tests), an MLflow server (`server`), a PostgreSQL server (`postgres`), a Ray cluster (`cluster`), an environment with
the wheel (`wheel_environment`, for slow tests).
A test that changes a finished sweep's folder copies it first.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EMAN_HOME", str(folder))
    # The command line may set these for its whole process; restore them after the test.
    for name in ("EMAN_DATA", "MLFLOW_TRACKING_URI"):
        before = os.environ.get(name)
        monkeypatch.setenv(name, before or "")
        if before is None or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables and nothing in them, to be copied: making the tables takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store_file(empty_database: Path, home: Path) -> Path:
    """The test's store, already made, in its home folder. Use it where a test does not ask how a store comes to be."""
    return Path(shutil.copy(empty_database, home / "mlflow.db"))


class Server:
    """An MLflow server over a database, by default a SQLite file."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.folder = folder
        self.database = database or f"sqlite:///{folder / 'server.db'}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--workers", "1"),
                *("--port", str(self.port), "--backend-store-uri", self.database),
                *("--artifacts-destination", str(self.folder / "artifacts")),
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.3)
        raise RuntimeError("the server did not start")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """The server behind the fixture ``server``."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_database, folder / "server.db")
    server = Server(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(mlflow_server: Server) -> Iterator[Server]:
    """An MLflow server on the loopback address that holds no runs. A test may stop it if it starts it again."""
    import mlflow

    yield mlflow_server
    if mlflow_server.process.poll() is not None:
        mlflow_server.start()
    client = mlflow.MlflowClient(mlflow_server.uri)
    for experiment in client.search_experiments():  # set aside what the test has stored
        if experiment.name != "Default":
            client.rename_experiment(experiment.experiment_id, uuid.uuid4().hex)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Start such a server over a database of the test's own."""
    made: list[Server] = []

    def make(database: str) -> Server:
        made.append(Server(tmp_path, database))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop()


class S3:
    """An S3 server in this process, with the bucket ``eman``. Its content outlives a stop."""

    uri = "s3://eman/home"

    def __init__(self) -> None:
        self.port = 0

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **keys}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3 server with an empty bucket. A test may stop it and start it again."""
    import boto3

    from eman.platform import storage

    server = S3()
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="eman")
    storage._filesystem.cache_clear()
    yield server
    storage._filesystem.cache_clear()
    boto3.resource("s3").Bucket("eman").objects.delete()
    boto3.client("s3").delete_bucket(Bucket="eman")
    server.stop()


def sweep(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``eman sweep`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "eman", "sweep", *arguments],
        env={**os.environ, "EMAN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a finished smoke sweep over two schemes of MoCo, for slow tests."""
    home = tmp_path_factory.mktemp("grid")
    sweep(home, "grid", "--method", "moco", "--scheme", "bn,eman", "--profile", "smoke")
    return home


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a finished smoke sweep of Tables 1 and 8. It takes minutes: for slow tests."""
    home = tmp_path_factory.mktemp("swept")
    done = sweep(home, "table1", "table8", "--profile", "smoke")
    assert "35 trained, 0 reused, 66 evaluations, 0 failed" in done.stderr
    assert "sweep efficiency" in done.stderr
    assert "missing" not in done.stdout
    return home


class Cluster(NamedTuple):
    """A Ray cluster: its job server's address, the environment of somebody who may use it, and its own address."""

    job_server: str
    environment: dict[str, str]
    address: str


#: A cluster of three nodes until its input ends: a process of its own, so that stopping it stops no other. Each has a
#: folder of its own for temporary files, as on machines of their own: in a common one, the first node that is done with
#: a job's files deletes them for all.
CLUSTER = """
import sys, tempfile
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "dashboard_host": "127.0.0.1"})
for _ in range(2):
    cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(prefix="ray"))
print("READY", cluster.webui_url, cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def ray_nodes(python: str, code: str, environment: dict[str, str], cwd: Path | None = None) -> Iterator[list[str]]:
    """What code that starts Ray's nodes prints after READY; its input ends with the block, which tells it to stop."""
    process = subprocess.Popen(
        [python, "-c", code],
        env=environment,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("READY")), "")
    assert line, "the cluster did not start"
    yield line.split()[1:]
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray cluster with two processors, a job server and a token."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "EMAN_HOME": str(tmp_path_factory.mktemp("cluster")),
    }
    with ray_nodes(sys.executable, CLUSTER, environment) as [server, address]:
        yield Cluster(f"http://{server.removeprefix('http://')}", environment, address)


class WheelEnvironment(NamedTuple):
    """A fresh environment with the wheel, in which the repository is not visible.

    Attributes:
        folder: The virtual environment.
        variables: What its commands find in their environment: none of the repository's or the test's own settings.
    """

    folder: Path
    variables: dict[str, str]

    def run(self, *command: str, cwd: Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs (``eman``, ``python``) in a folder, and check the exit code."""
        done = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env={**self.variables, "EMAN_HOME": str(cwd / "home"), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=580,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def nodes(self, code: str, cwd: Path) -> AbstractContextManager[list[str]]:
        """Start Ray's nodes by code whose processes have the wheel; see :func:`ray_nodes`."""
        return ray_nodes(str(self.folder / "bin" / "python"), code, self.variables, cwd)


#: What the wheel is built from.
SOURCES = ["eman", "platform", "trainers", "evaluation", "sweeps", "pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture(scope="session")
def wheel_environment(tmp_path_factory: pytest.TempPathFactory) -> WheelEnvironment:
    """An environment with the wheel, built here. Its dependencies are those of the environment that runs the tests."""
    root, top = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("wheel")
    source, folder = top / "source", top / "environment"
    source.mkdir()
    for name in SOURCES:  # a copy: building leaves files in its source
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", top, source]
    subprocess.run(build, check=True, timeout=300, cwd=top, env=without_repository())
    (wheel,) = top.glob("*.whl")
    venv.create(folder, with_pip=False)
    install = [*pip, "--python", folder / "bin" / "python", "install", *offline, wheel]
    subprocess.run(install, check=True, timeout=300, cwd=top, env=without_repository())
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only the folder: files that make the repository visible (editable installs) are not read in a path from a .pth.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return WheelEnvironment(folder, {**without_repository(), "PATH": path, "VIRTUAL_ENV": str(folder)})


def without_repository() -> dict[str, str]:
    """Return this process's environment without what leads to the repository, and without the project's settings."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("EMAN_")}


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, which Debian keeps out of the path."""
    postgres = shutil.which("postgres")
    folders = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *([Path(postgres).parent] if postgres else []),
    ]
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL is not installed; `make services` installs Debian's package")


@contextmanager
def run_postgres() -> Iterator[Path]:
    """Run a PostgreSQL server, and yield the folder of its socket, which only this user can open."""
    programs = postgres_programs()
    # As root PostgreSQL refuses to run, and other users cannot enter pytest's own folders.
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "nobody", "nogroup")
        common: dict[str, Any] = {**user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        create = [programs / "initdb", "-D", folder / "data", "-U", "eman", "--auth=trust", "--no-sync"]
        subprocess.run(create, check=True, timeout=120, **common)
        run = [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(run, **common)
        try:
            ready = [programs / "pg_isready", "-q", "-h", folder, "-U", "eman", "-d", "postgres"]
            for _ in range(300):
                if subprocess.run(ready, check=False, timeout=30).returncode == 0:
                    break
                time.sleep(0.1)
            yield folder
        finally:
            server.terminate()
            server.wait(timeout=30)


def create_database(postgres: Path) -> str:
    """Create an empty database, and return its address."""
    name = f"test_{uuid.uuid4().hex}"
    command = [postgres_programs() / "createdb", "-h", postgres, "-U", "eman", name]
    subprocess.run(command, check=True, timeout=60)
    return f"postgresql://eman@/{name}?host={postgres}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    with run_postgres() as folder:
        yield folder


@pytest.fixture
def postgres(postgres_server: Path) -> str:
    """The address of an empty database of the test's own."""
    return create_database(postgres_server)
