"""What people see in MLflow's UI: addresses of comparisons, a sweep's description, and the server itself."""

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from eman.platform.errors import UserError
from eman.platform.store.store import SWEEP, TRAINING, Record, Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep
from eman.sweeps.request import command

#: Tag of a sweep's run: the keys of its trainings, of which some may be another sweep's children.
MEMBERS = "eman.trainings"

#: MLflow cuts longer tags.
_LONGEST_TAG = 8000

#: What a run is judged by in a comparison, where it has it: what tables print, or what the run measures by itself.
_HEADLINES = ("linear/", "finetune/", "test/top1", "test/knn_top1")

#: Links that are longer, by the ids of many runs, stay out of descriptions.
_LONGEST_LINK = 1500

_OPEN = "whoever reaches it can read, change and delete all runs, and there is no login"
_START_SECONDS = 120.0


def runs_page(experiment: str) -> str:
    """The address of all runs, after the server's own; a browser that has filtered before would do so again."""
    return f"{_runs(experiment)}&searchFilter=&orderByKey=attributes.start_time&orderByAsc=false"


def _runs(experiment: str) -> str:
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning"


def sweep_page(experiment: str, sweep: Record) -> str:
    """The address of a sweep's run: description, tables, children."""
    return f"/#/experiments/{experiment}/runs/{sweep.run_id}?workflowType=machine_learning"


def comparisons(experiment: str, sweep: Record, trainings: Mapping[str, Record]) -> dict[str, str]:
    """The addresses of charts that compare the schemes of a sweep, by method; the best run comes first in each.

    Args:
        experiment: Its id.
        sweep: The sweep's run.
        trainings: All trainings by key.
    """
    keys = sweep.tags.get(MEMBERS, "").split(",")
    children = [record for record in trainings.values() if record.tags.get("mlflow.parentRunId") == sweep.run_id]
    members = [trainings[key] for key in keys if key in trainings] or children
    pages = {}
    for method in dict.fromkeys(record.tags["method"] for record in members):
        chosen = [record for record in members if record.tags["method"] == method]
        if all(record in children for record in chosen):
            which = f"tags.mlflow.parentRunId = '{sweep.run_id}' AND tags.method = '{method}'"
        else:
            which = f"attributes.run_id IN ({','.join(repr(record.run_id) for record in chosen)})"
        # Sorted by anything but the date, the UI lists children beside each other instead of under their parent.
        order = f"metrics.`{_headline(chosen)}`"
        pages[method] = (
            f"{_runs(experiment)}&compareRunsMode=CHART&searchFilter={quote(which, safe='(),.')}"
            f"&orderByKey={quote(order, safe='.')}&orderByAsc=false"
        )
    return pages


def _headline(records: Sequence[Record]) -> str:
    names = sorted({name for record in records for name in record.metrics})
    for start in _HEADLINES:
        for name in names:
            if name.startswith(start) and name.endswith("top1") and not name.endswith("held_out_top1"):
                return name
    return "train/loss"


def description(
    sweep: Sweep, record: Record, experiment: str, trainings: Mapping[str, Record], shown: Sequence[str]
) -> str:
    """Markdown for a sweep's run: its tables, comparisons of its schemes, and how to make it again.

    Args:
        sweep: The sweep.
        record: Its run.
        experiment: Id of the experiment.
        trainings: All trainings by key.
        shown: Its tables as Markdown; those that no longer fit into a tag are left to the artifacts.
    """
    pages = {
        name: page for name, page in comparisons(experiment, record, trainings).items() if len(page) < _LONGEST_LINK
    }
    links = ", ".join(f"[{name}](.{page})" for name, page in pages.items())
    revision = record.tags.get("eman.git", "unknown")
    above = f"Schemes compared: {links}. Figures and tables are under Artifacts.\n\n"
    below = f"\n\nMade by git revision `{revision}`; made again, or continued, by\n\n    {command(sweep.request)}\n"
    text = ""
    for one in shown:
        if len(above) + len(text) + len(one) + len(below) > _LONGEST_TAG - 100:
            text += "\n\n(the other tables are under Artifacts)"
            break
        text += f"\n\n{one}"
    return above + text.strip() + below


def describe(sweep: Sweep, store: Store, shown: Sequence[str]) -> dict[str, str]:
    """The tags with which the UI, and :func:`comparisons`, show a sweep that has ended."""
    members = ",".join(sweep.trainings)
    own = {MEMBERS: members} if len(members) <= _LONGEST_TAG else {}
    record = store.by_key(SWEEP)[sweep.key]
    record = replace(record, tags={**record.tags, **own})
    note = description(sweep, record, store.experiment_id, store.by_key(TRAINING), shown)
    return own | {"mlflow.note.content": note}


def link_lines(store: Store, server: str) -> list[str]:
    """Where the UI shows the runs, and the schemes of the newest sweep beside each other; the best to open comes first.

    Args:
        store: What it shows.
        server: Address of the server.
    """
    lines = []
    sweeps = store.records(SWEEP)
    if sweeps:
        newest, trainings = sweeps[0], store.by_key(TRAINING)
        for method, page in comparisons(store.experiment_id, newest, trainings).items():
            lines.append(f"{newest.name}, schemes of {method}: {server}{page}")
        lines.append(f"{newest.name}, tables: {server}{sweep_page(store.experiment_id, newest)}")
    return [*lines, f"all runs: {server}{runs_page(store.experiment_id)}"]


def serve(workspace: Workspace, port: int, host: str, allowed: Sequence[str], *, open_browser: bool) -> None:
    """Runs MLflow's server on the store until Ctrl-C, and shows the schemes of the newest sweep beside each other.

    A store that is a server already is only shown.

    Args:
        workspace: Whose store it is.
        port: Port of this machine.
        host: Address to listen at.
        allowed: Names by which others may reach it; needed where ``host`` is no loopback address.
        open_browser: Open a browser, where this machine has a screen.

    Raises:
        UserError: The port is taken, or ``host`` opens the store to others and nobody said to whom.
    """
    uri = workspace.store
    if uri.startswith("http"):
        server = uri.rstrip("/")
        _show(link_lines(Store(workspace), server), open_browser)
        return
    store, command = Store(workspace), _server_command(workspace, port, host, allowed)
    server = f"http://{allowed[0].split(':')[0] if allowed else '127.0.0.1'}:{port}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a server must not stay behind
    process = subprocess.Popen(command, env=environment)  # noqa: S603
    try:
        if _listening(process, host, port):
            if allowed:
                print(
                    "whoever reaches this address can read, change and delete all runs: there is no login", flush=True
                )
            _show([*link_lines(store, server), "Ctrl-C ends it"], open_browser)
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait(timeout=20)


def _server_command(workspace: Workspace, port: int, host: str, allowed: Sequence[str]) -> list[str]:
    if not _loopback(host) and not allowed:
        raise UserError(
            f"--host {host} opens the store to the network: {_OPEN}. If that is meant, name the host as others address "
            f"it: --allowed-host NAME."
        )
    for name in allowed:
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", name):
            raise UserError(f"--allowed-host {name}: give a host's name or address, for example lab.example.org.")
    if _answers(host, port):
        raise UserError(f"--port {port} is taken; give another, for example --port {port + 1}.")
    # What a browser says that it wants to reach, without which another site could make it send requests here.
    reached = [name if ":" in name else f"{name}:{port}" for name in (*allowed, "localhost", "127.0.0.1")]
    origins = [f"{scheme}://{name}" for name in reached for scheme in ("http", "https")]
    options = {
        "--backend-store-uri": workspace.store,
        "--default-artifact-root": workspace.artifacts_folder.as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--allowed-hosts": ",".join(reached),
        "--cors-allowed-origins": ",".join(origins),
    }
    return [
        str(Path(sys.executable).with_name("mlflow")),
        "server",
        *(word for pair in options.items() for word in pair),
    ]


def _loopback(host: str) -> bool:
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


def _listening(process: "subprocess.Popen[bytes]", host: str, port: int) -> bool:
    """Waits until a server takes connections; says whether it does."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(host, port):
            return True
        time.sleep(0.2)
    return False


def _show(lines: Sequence[str], open_browser: bool) -> None:
    print("\n".join(lines), flush=True)
    if open_browser and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(lines[0].rpartition(" ")[2])
