"""Sweeps as Ray jobs on a cluster: submit, list, follow, stop.

The job server requires a token, which Ray reads from ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``. It is never printed.
"""

import asyncio
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from eman import __version__
from eman.platform import modules
from eman.platform.cluster import ENVIRONMENT, connection_error
from eman.platform.errors import UserError
from eman.platform.store.records import new_id
from eman.sweeps.plan import Sweep
from eman.sweeps.request import arguments
from eman.sweeps.view.text import duration

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: Seconds to wait for a cluster that has just started and cannot run jobs yet.
_STARTING_SECONDS = 60.0

#: Seconds that a job gets to stop; Ray kills it afterwards.
_STOPPING_SECONDS = 60

#: Read by Ray in the process that supervises the job.
_JOB_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOPPING_SECONDS)}

#: Parts of the project's folder that a job does not need.
_EXCLUDED = [".git", ".venv", ".eman", "tests", "docs", "build", "*.egg-info", ".mypy_cache", ".ruff_cache"]


def client(address: str) -> "JobSubmissionClient":
    """Connect to a cluster's job server; raise `UserError` if it cannot be reached or refuses the token."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    if urlparse(address).scheme not in ("http", "https"):
        raise UserError(f"--address {address}: give the job server's address, such as http://127.0.0.1:8265.")
    try:
        connected = JobSubmissionClient(address)
        connected.list_jobs()  # checks the token
    except Exception as error:
        raise _unreachable(address, error) from error
    return connected


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(connection_error(f"--address {address}", error, "Ray job server"))


def source_for_job(root: Path, own: Sequence[str] = ()) -> dict[str, Any]:
    """Return the part of Ray's runtime environment that ships the project, the checkout at ``root``, or only the
    package if it was installed from a wheel; and ``own``, packages of one's own.
    """
    if (root / "pyproject.toml").is_file():
        return {"working_dir": str(root), "excludes": _EXCLUDED, **({"py_modules": list(own)} if own else {})}
    return {"py_modules": [str(root), *own]}


def write_packages(folder: Path) -> list[str]:
    """Write the modules that this process has loaded into a folder, and return a package's folder for each.

    Ray's job server takes packages only, so a file becomes a package that consists of it.
    """
    packages = []
    for source in modules.sources():
        for name, content in source.files:
            path = folder / (name if "/" in name else f"{source.name}/__init__.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        packages.append(str(folder / source.name))
    return packages


def submit(
    connected: "JobSubmissionClient",
    address: str,
    sweep: Sweep,
    options: Sequence[str],
    python: str | None,
    variables: Mapping[str, str],
) -> str:
    """Submit ``eman sweep`` with these options and return the job's id.

    Raises:
        UserError: The cluster rejects the job.
    """
    if python is None:
        local = urlparse(address).hostname in ("127.0.0.1", "localhost", "::1")
        python = sys.executable if local else "python"
    variables = {**ENVIRONMENT, **_JOB_ENVIRONMENT, **variables, "RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]}
    loaded = [word for source in modules.sources() for name in source.imported for word in ("--module", name)]
    command = [python, "-m", "eman", *loaded, "sweep", *arguments(sweep.request), *options, "--address", "auto"]
    deadline = time.monotonic() + _STARTING_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        source = source_for_job(Path(__file__).resolve().parents[2], write_packages(Path(folder)))
        while True:
            try:
                return connected.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=f"eman-{new_id()}",
                    runtime_env={**source, "env_vars": variables},
                    metadata={"eman": __version__, "sweep": f"{sweep.name} · {sweep.profile.name}"},
                )
            except Exception as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise _unreachable(address, error) from error
                time.sleep(1.0)


def logs(connected: "JobSubmissionClient", job: str, *, follow: bool = True) -> Iterator[str]:
    """Yield a job's output as it is written."""
    _info(connected, job)
    if not follow:
        yield connected.get_job_logs(job)
        return
    stream = connected.tail_job_logs(job)
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(anext(stream))  # type: ignore[arg-type]
            except StopAsyncIteration:
                return


def exit_code(connected: "JobSubmissionClient", job: str) -> int:
    info = _info(connected, job)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    return 0 if info.status == "SUCCEEDED" else 1


def listing(connected: "JobSubmissionClient") -> Iterator[str]:
    """Yield a heading and one line per job, newest first: id, status, start, duration, name of the sweep."""
    jobs = [job for job in connected.list_jobs() if (job.metadata or {}).get("eman")]
    if not jobs:
        yield "no sweeps have been submitted to this cluster"
        return
    width = max(len(job.submission_id or "") for job in jobs)
    yield f"{'job':<{width}}  status     started           took      sweep"
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        start = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.start_time / 1000)) if job.start_time else "not yet"
        sweep = (job.metadata or {}).get("sweep", "")
        yield f"{job.submission_id:<{width}}  {job.status.value:<9}  {start:<16}  {_took(job):<8}  {sweep}"


def _took(job: Any) -> str:
    """Return how long a job has run."""
    return duration((job.end_time or 1000 * time.time()) / 1000 - job.start_time / 1000) if job.start_time else ""


def stop(connected: "JobSubmissionClient", job: str) -> str:
    """Stop a job, wait until it has ended, and return a line to print. Finished runs are kept.

    Raises:
        UserError: There is no such job, or it does not end.
    """
    info = _info(connected, job)
    if info.status.is_terminal():
        return f"{job} had already ended ({info.status.value}) after {_took(info)}"
    connected.stop_job(job)
    deadline = time.monotonic() + _STOPPING_SECONDS + _STARTING_SECONDS
    while not (info := _info(connected, job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise UserError(f"{job} was told to stop and has not ended; see `eman logs {job}`, then stop it again.")
        time.sleep(0.5)
    kept = "finished runs are kept, and the same submission continues"
    return f"{job} ended ({info.status.value}) after {_took(info)}; {kept}"


def _info(connected: "JobSubmissionClient", job: str) -> Any:
    try:
        return connected.get_job_info(job)
    except Exception as error:
        known = ", ".join(j.submission_id or "" for j in connected.list_jobs()) or "none"
        raise UserError(f"there is no job {job!r} on this cluster; there are: {known}.") from error
