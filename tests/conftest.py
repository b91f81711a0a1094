"""Every test has a home folder of its own, and one thread, as a run of one worker has."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EMAN_HOME", str(folder))
    # The command line sets these for its whole process; whatever a test leaves behind is taken back.
    for name in ("EMAN_DATA", "MLFLOW_TRACKING_URI"):
        before = os.environ.get(name)
        monkeypatch.setenv(name, before or "")
        if before is None or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return folder


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real MLflow server on the loopback address, which a test can stop and start."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """The same over a database of the test's own."""
    made: list[Server] = []

    def make(database: str) -> Server:
        made.append(Server(tmp_path, database))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop()


def programs() -> Path:
    """PostgreSQL's programs: Debian keeps them out of the path."""
    found = shutil.which("postgres")
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *([Path(found).parent] if found else []),
    ]
    for place in places:
        if (place / "initdb").exists():
            return place
    pytest.skip("PostgreSQL is not installed; `make services` installs Debian's package")


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a database of one's own, reached through a socket that only this user can open."""
    binaries = programs()
    # As root PostgreSQL refuses to run; pytest's own folders are closed to others.
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, "nobody", "nogroup")
        common: dict[str, Any] = {**user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        create = [binaries / "initdb", "-D", folder / "data", "-U", "eman", "--auth=trust", "--no-sync"]
        subprocess.run(create, check=True, timeout=120, **common)
        run = [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen(run, **common)
        try:
            for _ in range(300):
                if (folder / ".s.PGSQL.5432").exists() and server.poll() is None:
                    break
                time.sleep(0.1)
            yield f"postgresql://eman@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(timeout=30)
