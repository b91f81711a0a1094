"""Sweeps on a cluster by Ray Jobs: submit, list, follow, stop. The job server needs a token; it is read where Ray reads
it (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``) and never printed.
"""

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from eman import __version__
from eman.platform.cluster import ENVIRONMENT, refusal
from eman.platform.errors import UserError
from eman.platform.store.records import new_id

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: What a job does not need of the project's folder.
_EXCLUDED = [".git", ".venv", ".eman", "tests", "docs", "build", "*.egg-info", ".mypy_cache", ".ruff_cache"]


def client(address: str) -> "JobSubmissionClient":
    """A connection to a cluster's job server.

    Raises:
        UserError: Nothing answers there, it refuses the token, or it runs another version of Ray.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    if urlparse(address).scheme not in ("http", "https"):
        raise UserError(f"--address {address}: give the job server's address, such as http://127.0.0.1:8265.")
    try:
        connected = JobSubmissionClient(address)
        found = connected._do_request("GET", "/api/version")
        theirs = found.json().get("ray_version", "")
    except Exception as error:
        raise UserError(_refusal(address, error)) from error
    if found.status_code in (401, 403):
        raise UserError(_refusal(address, PermissionError("401")))
    if theirs != ray.__version__:
        raise UserError(
            f"--address {address} runs Ray {theirs}, and this is Ray {ray.__version__}; install one version on both."
        )
    return connected


def _refusal(address: str, error: Exception) -> str:
    return refusal(f"--address {address}", error, "Ray job server")


def travelling(root: Path) -> dict[str, Any]:
    """What a job takes along, as Ray's runtime environment says it: the checkout at ``root``; or, where the project was
    installed from a wheel, its package alone, and nothing of what lies beside it.
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
    """Submits ``eman sweep ARGUMENTS`` to run on the cluster; returns the job's id.

    Raises:
        UserError: The cluster does not take it.
    """
    if python is None:
        local = urlparse(address).hostname in ("127.0.0.1", "localhost", "::1")
        python = sys.executable if local else "python"
    variables = {**ENVIRONMENT, **variables}
    variables |= {"RAY_AUTH_MODE": os.environ["RAY_AUTH_MODE"]}
    command = [python, "-m", "eman", "sweep", *arguments, "--address", "auto"]
    root = Path(__file__).resolve().parent.parent
    try:
        return connected.submit_job(
            entrypoint=shlex.join(command),
            submission_id=f"eman-{new_id()}",
            runtime_env={**travelling(root), "env_vars": variables},
            metadata={"eman": __version__, "sweep": " ".join(arguments)},
        )
    except Exception as error:
        raise UserError(_refusal(address, error)) from error


def logs(connected: "JobSubmissionClient", job: str, *, follow: bool = True) -> Iterator[str]:
    """A job's output, as it comes."""
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
    """The exit code of the sweep behind a finished job."""
    info = _info(connected, job)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    return 0 if info.status == "SUCCEEDED" else 1


def listing(connected: "JobSubmissionClient") -> Iterator[str]:
    """One line a job, the newest first."""
    jobs = [job for job in connected.list_jobs() if (job.metadata or {}).get("eman")]
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        yield f"{job.submission_id}  {job.status.value:<10}{(job.metadata or {}).get('sweep', '')}"
    if not jobs:
        yield "no sweeps have been submitted to this cluster"


def stop(connected: "JobSubmissionClient", job: str) -> None:
    """Stops a job. What its sweep has finished is kept, and the same submission continues it."""
    _info(connected, job)
    connected.stop_job(job)


def _info(connected: "JobSubmissionClient", job: str) -> Any:
    try:
        return connected.get_job_info(job)
    except Exception as error:
        known = ", ".join(j.submission_id or "" for j in connected.list_jobs()) or "none"
        raise UserError(f"there is no job {job!r} on this cluster; there are: {known}.") from error
