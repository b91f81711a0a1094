"""Sweeps as Ray jobs on a cluster: submit, list, follow, stop.

The job server requires a token, which Ray reads from ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``. It is never printed.
"""

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from eman import __version__
from eman.platform.cluster import ENVIRONMENT, connection_error
from eman.platform.errors import UserError
from eman.platform.store.records import new_id
from eman.sweeps.view.text import duration

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: Seconds to wait for a cluster that has just started and cannot run jobs yet.
_STARTING_SECONDS = 60.0

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


def source_for_job(root: Path) -> dict[str, Any]:
    """Return the part of Ray's runtime environment that ships the project: the checkout at ``root``, or only the
    package if it was installed from a wheel.
    """
    if (root / "pyproject.toml").is_file():
        return {"working_dir": str(root), "excludes": _EXCLUDED}
    return {"py_modules": [str(root)]}


def submit(
    connected: "JobSubmissionClient",
    address: str,
    arguments: Sequence[str],
    python: str | None,
    variables: Mapping[str, str],
) -> str:
    """Submit ``eman sweep ARGUMENTS`` and return the job's id; raise `UserError` if the cluster rejects it."""
    if python is None:
        local = urlparse(address).hostname in ("127.0.0.1", "localhost", "::1")
        python = sys.executable if local else "python"
    variables = {**ENVIRONMENT, **variables, "RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]}
    command = [python, "-m", "eman", "sweep", *arguments, "--address", "auto"]
    source = source_for_job(Path(__file__).resolve().parents[2])
    deadline = time.monotonic() + _STARTING_SECONDS
    while True:
        try:
            return connected.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"eman-{new_id()}",
                runtime_env={**source, "env_vars": variables},
                metadata={"eman": __version__, "sweep": " ".join(arguments)},
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
    """Yield one line per job, newest first: id, status, start, duration, sweep."""
    jobs = [job for job in connected.list_jobs() if (job.metadata or {}).get("eman")]
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        start, took = "not started", ""
        if job.start_time:
            start = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.start_time / 1000))
            took = duration((job.end_time or 1000 * time.time()) / 1000 - job.start_time / 1000)
        yield f"{job.submission_id}  {job.status.value:<10}{start:<18}{took:<8}{(job.metadata or {}).get('sweep', '')}"
    if not jobs:
        yield "no sweeps have been submitted to this cluster"


def stop(connected: "JobSubmissionClient", job: str) -> str:
    """Stop a job and return a line to print. Finished runs are kept."""
    info = _info(connected, job)
    if info.status.is_terminal():
        return f"{job} had already ended ({info.status.value})"
    connected.stop_job(job)
    return f"stopped {job}; finished runs are kept, and the same submission continues"


def _info(connected: "JobSubmissionClient", job: str) -> Any:
    try:
        return connected.get_job_info(job)
    except Exception as error:
        known = ", ".join(j.submission_id or "" for j in connected.list_jobs()) or "none"
        raise UserError(f"there is no job {job!r} on this cluster; there are: {known}.") from error
