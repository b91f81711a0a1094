"""`eman ui`: MLflow's server, opened at the comparison of the newest sweep's schemes."""

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from eman.platform.errors import UserError
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.view.links import link_lines

_NO_LOGIN = "anyone who can reach it can read, change and delete all runs, and there is no login"


def serve(workspace: Workspace, port: int, host: str, allowed: Sequence[str], *, open_browser: bool) -> None:
    """Run MLflow's server on the store until Ctrl-C. If the store already is a server, only print the addresses.

    ``allowed`` are host names by which others may reach it, required unless ``host`` is a loopback address.

    Raises:
        UserError: The port is taken, or ``host`` opens the store to others and ``allowed`` is empty.
    """
    if workspace.store.startswith("http"):
        _show(link_lines(Store(workspace), workspace.store.rstrip("/")), open_browser)
        return
    store, command = Store(workspace), _server_command(workspace, port, host, allowed)
    store.settle_lost()
    server = f"http://{allowed[0].split(':')[0] if allowed else '127.0.0.1'}:{port}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server must not outlive this process
    process = subprocess.Popen(command, env=environment)  # noqa: S603
    try:
        while process.poll() is None and not _answers(host, port):
            time.sleep(0.2)
        if process.poll() is None:
            if allowed:
                print(f"{server} is open to others: {_NO_LOGIN}", flush=True)
            _show([*link_lines(store, server), "Ctrl-C stops it"], open_browser)
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=20)


def _server_command(workspace: Workspace, port: int, host: str, allowed: Sequence[str]) -> list[str]:
    if not _is_loopback(host) and not allowed:
        raise UserError(
            f"--host {host} opens the store to the network: {_NO_LOGIN}. If you mean it, name the host as others "
            f"address it: --allowed-host NAME."
        )
    for name in allowed:
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", name):
            raise UserError(f"--allowed-host {name}: give a host's name or address, for example lab.example.org.")
    if _answers(host, port):
        raise UserError(f"--port {port} is taken; give another, for example --port {port + 1}.")
    # Hosts and origins that the server accepts from a browser, against requests forged by other sites.
    hosts = [name if ":" in name else f"{name}:{port}" for name in (*allowed, "localhost", "127.0.0.1")]
    origins = [f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
    options = {
        "--backend-store-uri": workspace.store,
        "--default-artifact-root": _artifacts(workspace),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--allowed-hosts": ",".join(hosts),
        "--cors-allowed-origins": ",".join(origins),
    }
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow, "server", *(word for pair in options.items() for word in pair)]


def _artifacts(workspace: Workspace) -> str:
    """Return the URI of the artifacts, next to the work folder's other files."""
    return f"{workspace.home}/artifacts" if workspace.remote else (Path(workspace.home) / "artifacts").as_uri()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), port), timeout=5).close()  # noqa: S104
    except OSError:
        return False
    return True


def _show(lines: Sequence[str], open_browser: bool) -> None:
    print("\n".join(lines), flush=True)
    if open_browser and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(lines[0].rpartition(" ")[2])
