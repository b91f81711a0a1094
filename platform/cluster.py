"""Start or join a Ray cluster."""

import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from eman.platform.errors import UserError

#: Set before Ray is imported. Ray Train polls its workers every 0.1 s instead of every 2 s; workers keep the driver's
#: priority; usage statistics and Tune's own logs are off; trials, which are threads of one process, share one heap
#: instead of leaking one each.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "30",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # progress within an epoch has no objective
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: A trial that drives a TorchTrainer reserves a sliver of the head node instead of a CPU: reserving a CPU that its own
#: workers need would deadlock.
DRIVER_RESOURCES = {"CPU": 0.0, "node:__internal_head__": 0.001}


@dataclass(frozen=True)
class Resources:
    """Resources of a cluster."""

    cpus: float
    gpus: float

    def fit(self, needs: Mapping[str, float]) -> int:
        """Return how many trials with these needs fit at once, at least 1."""
        total = {"CPU": self.cpus, "GPU": self.gpus}
        return max(1, min(int(total[name] / amount + 1e-6) for name, amount in needs.items() if amount))

    @classmethod
    def now(cls) -> "Resources":
        """Return the current resources of the connected cluster."""
        import ray

        total = ray.cluster_resources()
        return cls(total.get("CPU", 0), total.get("GPU", 0))


@contextmanager
def request_room(bundles: Sequence[Mapping[str, float]]) -> Iterator[None]:
    """Ask the cluster's autoscaler, if it has one, for room for all bundles at once, until the block ends."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(bundle) for bundle in bundles])
    try:
        yield
    finally:  # Ray keeps a request until the next one, and idle machines with it
        request_resources(bundles=[])


@contextmanager
def cluster(address: str | None = None, *, cpus: int | None = None) -> Iterator[Resources]:
    """Join the Ray cluster at an address, or start one on this machine with ``cpus`` cores, and leave it at the end.

    Raises:
        UserError: The cluster does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:  # a private cluster, closed to other users of this machine
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    warnings.filterwarnings("ignore", module="ray")
    with _on_loopback() if address is None else nullcontext():  # Ray reads the setting when it is imported
        import ray

    variables = {name: os.environ[name] for name in ENVIRONMENT}
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):  # inside a submitted job, whose environment has them
        variables = {}
    on_term = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    try:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:  # no runtime_env: workers inherit the environment, and prestarted ones can be used
            with _on_loopback():
                ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            check_port(address)
            with buffered_stderr():
                ray.init(address, runtime_env={"env_vars": variables} if variables else None, **quiet)
    except Exception as error:  # gRPC, authentication and version checks raise unrelated types
        raise UserError(connection_error(f"--address {address}" if address else "this machine's Ray", error)) from error
    if on_term is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)
    try:
        yield Resources.now()
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Start a Ray node that has the loopback address and listens on no other, Ray's default outside Linux.

    With the machine's address its metrics would be open to everybody. Programs that this process starts later, such as
    `ray start` for a cluster, do not inherit it.
    """
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    given = os.environ.get(name)
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(name, None)


@contextmanager
def buffered_stderr() -> Iterator[None]:
    """Buffer standard error, including that of C++ code, and discard it if the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
            sys.stderr.flush()
            file.seek(0)
            os.write(kept, file.read())
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def check_port(address: str) -> None:
    """Raise :class:`OSError` unless a cluster's port accepts connections: Ray itself retries for minutes.

    ``address`` is ``HOST:PORT`` or ``ray://HOST:PORT``; anything else, such as ``auto``, is left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def connection_error(address: str, error: Exception, what: str = "Ray cluster") -> str:
    """Explain in one line why a cluster cannot be used and what to do."""
    text, cause = f"{type(error).__name__}: {error}", error.__cause__
    whole = f"{text} {type(cause).__name__}: {cause}"  # Ray puts the reason into the cause
    versions = re.findall(r"(Ray|Python): (\S+)", whole)[:4]
    if "ersion mismatch" in whole and len(versions) == 4:
        theirs, ours = (" and ".join(" ".join(pair) for pair in half) for half in (versions[:2], versions[2:]))
        return f"{address} runs {theirs}, and this is {ours}; install the same versions on both."
    if re.search(r"\b40[13]\b|authenticat|invalidauthtoken|unauthorized|permissionerror", whole, re.IGNORECASE):
        return (
            f"{address}: the cluster refuses the token; set RAY_AUTH_TOKEN to the cluster's token, or "
            f"RAY_AUTH_TOKEN_PATH to its file (`ray get-auth-token` on the cluster prints it)."
        )
    return (
        f"{address}: no {what} answers there ({text.splitlines()[0][:120]}); check address and port, or leave "
        f"--address out to use this machine. To start a cluster that only this machine can reach: "
        f"`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_AUTH_MODE=token ray start --head`; for others, see docs/clusters.md."
    )
