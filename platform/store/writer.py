"""Writing to one run of the store, in batches, also while the store is away."""

import contextlib
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from eman.platform.errors import UserError, first_line
from eman.platform.store import spool
from eman.platform.store.client import is_away
from eman.platform.store.connection import Connection
from eman.platform.store.records import number

#: Seconds between two heartbeats.
BEAT_SECONDS = 20.0

#: Seconds between two attempts to reach a store that is away.
AWAY_SECONDS = 5.0

log = logging.getLogger("eman")


class RunLog:
    """The writing end of one run.

    Metrics of a step that the run already has are not written again. While the store is away, entries are kept on disk,
    in order, and written as soon as the store answers.

    Args:
        store: The store.
        run_id: MLflow's identifier of the run.
        last_step: The last step that the run has metrics of.
        away_seconds: Seconds between two attempts to reach a store that is away.
    """

    def __init__(
        self, store: Connection, run_id: str, last_step: int = 0, *, away_seconds: float = AWAY_SECONDS
    ) -> None:
        self.store, self.run_id, self.last_step, self._away_seconds = store, run_id, last_step, away_seconds
        self._beaten = time.monotonic()
        self._quiet_until = 0.0
        self._spool = spool.Spool(store.workspace.spool_folder, run_id)

    def write(
        self,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
    ) -> bool:
        """Write one batch, then the status. Return whether the store has it; otherwise it is kept on disk."""
        now = int(time.time() * 1000)
        entry = {
            "metrics": [(name, float(value), now, step) for name, value in (metrics or {}).items()],
            "params": {name: str(value) for name, value in (params or {}).items()},
            "tags": {name: str(value) for name, value in (tags or {}).items()},
            "status": status,
        }
        if time.monotonic() >= self._quiet_until:
            try:
                deliver(self.store, self._spool, wait=True)
                send(self.store, self.run_id, entry)
                return True
            except Exception as error:
                if not is_away(error):
                    raise
                log.warning("the store does not answer; run %s is logged to %s", self.run_id, self._spool.path)
                self._quiet_until = time.monotonic() + self._away_seconds
        self._spool.append(entry)
        return False

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self.write(tags=tags)

    def epoch(self, number: int, metrics: Mapping[str, float], share: float | None = None) -> None:
        """Write metrics of an epoch, and the share of the run that is done."""
        if number > self.last_step:
            self.write(metrics, number, tags=heartbeat(share))
            self.last_step, self._beaten = number, time.monotonic()

    def beat(self, share: float | None = None) -> None:
        """Say that the run is alive, and which share of it is done; at most every :data:`BEAT_SECONDS`."""
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.tag(heartbeat(share))

    def finish(self, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None) -> None:
        """Write the last metrics, then say that the run is done."""
        self.write(metrics, self.last_step, tags=tags, status="FINISHED")

    def fail(self, reason: str) -> None:
        """Say that the run gives no number, and why. Failures are counted within a launch."""
        failures = 1.0
        with contextlib.suppress(Exception):  # a store that is away cannot tell: count one
            tags = self.store.client.get_run(self.run_id).data.tags
            if tags.get("eman.failed_in") == tags.get("eman.launch", ""):
                failures += number(tags.get("eman.failures"))
            self.write(tags={"eman.failed_in": tags.get("eman.launch", "")})
        self.write(tags={"eman.reason": reason, "eman.failures": f"{failures:.0f}"}, status="FAILED")

    def interrupt(self) -> None:
        """Say that the run was stopped. It can be taken up again at once."""
        self.write(status="KILLED")


def deliver(store: Connection, kept: spool.Spool, *, wait: bool = False) -> bool:
    """Send a spool's entries; set aside what the store refuses, for example entries of a run that it does not have.

    Returns:
        Whether there was something that it took.

    Raises:
        Exception: The store is away; the entries are kept.
    """
    try:
        return kept.deliver(partial(send, store, kept.run_id), wait=wait)
    except UserError:
        raise
    except Exception as error:
        if is_away(error):
            raise
        log.warning("%s cannot be delivered to this store (%s); set aside", kept.path, first_line(error))
        kept.set_aside()
        return False


def heartbeat(share: float | None = None) -> dict[str, str]:
    """Return the tags that say that a run is alive, and which share of it is done."""
    return {"eman.heartbeat": f"{time.time():.0f}"} | ({} if share is None else {"eman.share": f"{share:.4f}"})


def send(store: Connection, run_id: str, entry: Mapping[str, Any]) -> None:
    """Write an entry to the store.

    Raises:
        Exception: Whatever MLflow raises.
    """
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(name, value, stamp, step) for name, value, stamp, step in entry["metrics"]]
    params = [Param(name, value) for name, value in entry["params"].items()]
    tags = [RunTag(name, value) for name, value in entry["tags"].items()]
    if metrics or params or tags:
        store.client.log_batch(run_id, metrics, params, tags)
    if entry["status"] is not None:
        store.client.set_terminated(run_id, entry["status"])
