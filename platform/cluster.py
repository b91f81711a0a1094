"""Ray: starting or joining a cluster, quietly and without holding more than is needed."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from eman.platform.errors import UserError

#: Set before Ray is imported. Reports are taken every 0.1 s instead of every 2 s; workers keep the driver's priority;
#: nothing is sent home; Tune writes no logs of its own beside MLflow's.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "30",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: A trial that drives a TorchTrainer takes one of these instead of a CPU: holding a CPU that its own workers need would
#: be a deadlock.
TRIAL_SLOT = "trial_slot"


@dataclass(frozen=True)
class Resources:
    """What the cluster has."""

    cpus: float
    gpus: float
    nodes: int


@contextmanager
def cluster(
    address: str | None = None,
    *,
    cpus: int | None = None,
    forward: tuple[str, ...] = ("EMAN_HOME", "EMAN_DATA", "MLFLOW_TRACKING_URI"),
) -> Iterator[Resources]:
    """A Ray session: a cluster of this machine's cores, or one that runs at ``address``.

    Args:
        address: Address of a running cluster, or ``None`` for one that ends with the session.
        cpus: Logical CPUs of the local cluster; by default its cores.
        forward: Environment variables that workers inherit.

    Raises:
        UserError: The cluster does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="ray")
    import ray

    variables = {name: os.environ[name] for name in forward if os.environ.get(name)}
    variables |= {name: os.environ[name] for name in _ENVIRONMENT}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                resources={TRIAL_SLOT: 1},
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": variables},
            )
        else:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables}
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({str(error).splitlines()[0][:120]}). Start one "
            f"with `ray start --head`, or leave --address out to use this machine."
        ) from error
    try:
        total = ray.cluster_resources()
        yield Resources(total.get("CPU", 0), total.get("GPU", 0), len(ray.nodes()))
    finally:
        ray.shutdown()
