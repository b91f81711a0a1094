"""An MLflow server with a login, as `deploy/mlflow.sh` starts it, and our client."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "a-password-of-a-test-" + os.urandom(8).hex()


class Login(NamedTuple):
    """A server's address, its log, and the environment of a client that may use it."""

    uri: str
    log: Path
    environment: dict[str, str]


def answer(uri: str) -> int:
    try:
        with urllib.request.urlopen(uri, timeout=10) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)
    except OSError:
        return 0


@pytest.fixture
def login(postgres: str, tmp_path: Path) -> Iterator[Login]:
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's login needs Flask-WTF; `make install` installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_TRACKING_USERNAME": "eman", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [str(ROOT / "deploy" / "mlflow.sh"), "127.0.0.1", postgres, str(tmp_path / "artifacts")],
            env={**environment, "MLFLOW_PORT": str(port)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while answer(f"{uri}/health") != 200:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield Login(uri, log, {**environment, "MLFLOW_TRACKING_URI": uri})
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        finally:
            os.killpg(server.pid, signal.SIGKILL) if server.poll() is None else None


def eman(login: Login, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eman", *words]
    environment = {**login.environment, **changed}
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_a_run_is_written_and_read_with_the_login_and_the_password_appears_nowhere(login: Login, home: Path) -> None:
    experiment = f"{login.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert answer(experiment) == 401
    trained = eman(login, "train", "byol", "--scheme", "eman", "--profile", "smoke", "--set", "epochs=1")
    assert trained.returncode == 0, trained.stderr
    shown = eman(login, "runs", "list")
    assert shown.returncode == 0, shown.stderr
    assert "BN / EMAN" in shown.stdout
    for name, words in {"MLFLOW_TRACKING_PASSWORD": "wrong", "MLFLOW_TRACKING_USERNAME": "nobody"}.items():
        refused = eman(login, "status", **{name: words})
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "asks for another login; set MLFLOW_TRACKING_USERNAME" in refused.stderr
    written = "".join(done.stdout + done.stderr for done in (trained, shown)) + login.log.read_text()
    written += "".join(path.read_text(errors="replace") for path in home.rglob("*") if path.is_file())
    arguments = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True, timeout=30).stdout
    assert PASSWORD not in written + arguments
