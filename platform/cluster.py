"""Ray: starting or joining a cluster, quietly and without holding more than is needed."""

import logging
import os
import re
import secrets
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eman.platform.errors import UserError

#: Set before Ray is imported. Reports are taken every 0.1 s instead of every 2 s; workers keep the driver's priority;
#: no usage statistics; Tune writes no logs of its own beside MLflow's; and trials, threads of one process, share one
#: heap instead of leaving one behind each.
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
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: A trial that drives a TorchTrainer takes a bit of what every head node has instead of a CPU: holding a CPU that its
#: own workers need would be a deadlock.
DRIVER_RESOURCES = {"CPU": 0.0, "node:__internal_head__": 0.001}


@dataclass(frozen=True)
class Resources:
    """What a cluster has."""

    cpus: float
    gpus: float
    nodes: int

    def now(self) -> "Resources":
        """Return what the cluster of this session has now."""
        return current_resources()


@contextmanager
def cluster(
    address: str | None = None,
    *,
    cpus: int | None = None,
) -> Iterator[Resources]:
    """Start or join a Ray cluster for the time of a block.

    Args:
        address: Address of a running cluster; ``None`` starts one on this machine, which ends with the block.
        cpus: Logical CPUs of a cluster that is started; by default the machine's cores.

    Raises:
        UserError: The cluster does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:  # a cluster of our own: nobody else on this machine may use it
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    warnings.filterwarnings("ignore", module="ray")
    import ray

    variables = {name: os.environ[name] for name in ENVIRONMENT}
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):  # inside a submitted job, which has told its workers all of this
        variables = {}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )  # no runtime_env: its workers inherit the environment, and those that Ray starts early can be used
        else:
            knock(address)
            with held_back():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": variables} if variables else None,
                )
    except Exception as error:  # gRPC, authentication and versions raise kinds of their own
        raise UserError(refusal(f"--address {address}" if address else "this machine's Ray", error)) from error
    try:
        yield current_resources()
    finally:
        ray.shutdown()


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back what is written to standard error, also by C++, and drop it if the block raises: the error says it in
    one line.
    """
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


def knock(address: str, patience: float = 10.0) -> None:
    """Connect to a cluster's port and hang up: Ray itself tries for minutes before it says that nobody listens.

    Args:
        address: ``HOST:PORT`` or ``ray://HOST:PORT``; anything else, such as ``auto``, is left to Ray.
        patience: Seconds to wait for an answer.

    Raises:
        OSError: Nobody answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()


def refusal(address: str, error: Exception, what: str = "Ray cluster") -> str:
    """Return why a cluster cannot be used, and what to do, in one line."""
    text, below = f"{type(error).__name__}: {error}", error.__cause__
    whole = f"{text} {type(below).__name__}: {below}"  # Ray keeps the reason below what it raises
    versions = re.findall(r"(Ray|Python): (\S+)", whole)[:4]
    if "ersion mismatch" in whole and len(versions) == 4:
        theirs, ours = (" and ".join(" ".join(pair) for pair in half) for half in (versions[:2], versions[2:]))
        return f"{address} runs {theirs}, and this is {ours}; install the same versions on both."
    if re.search(r"\b40[13]\b|authenticat|invalidauthtoken|unauthorized|permissionerror", whole, re.IGNORECASE):
        return (
            f"{address}: the cluster refuses the token; put the cluster's token into RAY_AUTH_TOKEN, or its file's "
            f"path into RAY_AUTH_TOKEN_PATH (`ray get-auth-token` on the cluster prints it)."
        )
    return (
        f"{address}: no {what} answers there ({text.splitlines()[0][:120]}); check address and port, or leave "
        f"--address out to use this machine. To start a cluster that only this machine can reach: "
        f"`RAY_AUTH_MODE=token ray start --head --node-ip-address=127.0.0.1`; for others, see docs/clusters.md."
    )


def current_resources() -> Resources:
    """Return what the cluster of this session has now."""
    import ray

    total = ray.cluster_resources()
    return Resources(total.get("CPU", 0), total.get("GPU", 0), len(ray.nodes()))
