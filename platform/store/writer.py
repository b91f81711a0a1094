"""Write to one run of the store in batches, also while the store is down."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eman.platform.store.client import is_away
from eman.platform.store.connection import Connection
from eman.platform.store.records import DatasetUse, number
from eman.platform.store.spool import Spool, send

#: Seconds between heartbeats.
BEAT_SECONDS = 20.0

#: Seconds between attempts to reach a store that is down.
AWAY_SECONDS = 5.0

log = logging.getLogger("eman")


class RunLog:
    """Writes to one run.

    Metrics up to ``last_step``, which the run already has, are skipped. While the store is down, entries are kept on
    disk, in order, and written when it answers; it is tried every ``away_seconds``.
    """

    def __init__(
        self, store: Connection, run_id: str, last_step: int = 0, *, away_seconds: float = AWAY_SECONDS
    ) -> None:
        self.store, self.run_id, self.last_step, self._away_seconds = store, run_id, last_step, away_seconds
        self._last_beat = time.monotonic()
        self._retry_at = 0.0
        self._spool = Spool(store, run_id)
        self._points: list[tuple[str, float, int, int]] = []

    def write(
        self,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        inputs: Sequence[DatasetUse] = (),
    ) -> bool:
        """Write one batch, then the status; return ``False`` if they were kept on disk."""
        now = int(time.time() * 1000)
        entry = {
            "metrics": self._points + [(name, float(value), now, step) for name, value in (metrics or {}).items()],
            "params": {name: str(value) for name, value in (params or {}).items()},
            "tags": {name: str(value) for name, value in (tags or {}).items()},
            "inputs": [asdict(used) for used in inputs],
            "status": status,
        }
        self._points = []
        if time.monotonic() >= self._retry_at:
            try:
                self._spool.deliver(wait=True)
                send(self.store, self.run_id, entry)
                return True
            except Exception as error:
                if not is_away(error):
                    raise
                log.warning("the store does not answer; run %s is logged to %s", self.run_id, self._spool.path)
                self._retry_at = time.monotonic() + self._away_seconds
        self._spool.append(entry)
        return False

    def point(self, step: int, metrics: Mapping[str, float]) -> None:
        """Buffer a point of a curve until the next write."""
        now = int(time.time() * 1000)
        self._points += [(name, float(value), now, step) for name, value in metrics.items()]

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self.write(tags=tags)

    def epoch(self, number: int, metrics: Mapping[str, float], share: float | None = None) -> None:
        """Write an epoch's metrics and the completed share of the run."""
        if number > self.last_step:
            self.write(metrics, number, tags=heartbeat(share))
            self.last_step, self._last_beat = number, time.monotonic()

    def beat(self, share: float | None = None) -> None:
        """Send a heartbeat with the completed share of the run, at most every :data:`BEAT_SECONDS`."""
        if time.monotonic() - self._last_beat > BEAT_SECONDS:
            self._last_beat = time.monotonic()
            self.tag(heartbeat(share))

    def finish(
        self,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        inputs: Sequence[DatasetUse] = (),
    ) -> None:
        """Write the final metrics and the data that was used, and mark the run as finished."""
        self.write(metrics, self.last_step, tags=tags, status="FINISHED", inputs=inputs)

    def fail(self, reason: str, *, final: bool = False) -> None:
        """Mark the run as failed for this reason, and count the failures of this launch.

        A ``final`` failure is a result: the run would fail again.
        """
        failures = 1.0
        with contextlib.suppress(Exception):  # a store that is down cannot be read; count one
            before = self.store.client.get_run(self.run_id).data.tags
            if before.get("eman.failed_in") == before.get("eman.launch", ""):
                failures += number(before.get("eman.failures"))
            self.write(tags={"eman.failed_in": before.get("eman.launch", "")})
        tags = {"eman.reason": reason, "eman.failures": f"{failures:.0f}", "eman.final": "true" if final else ""}
        self.write(tags=tags, status="FAILED")

    def stop(self, reason: str) -> None:
        """Mark the run as stopped by a search; it resumes from its checkpoint when another sweep needs it."""
        self.write(tags={"eman.reason": reason, "eman.stopped": "true"}, status="KILLED")

    def interrupt(self) -> None:
        """Mark the run as interrupted, so that it can be resumed at once."""
        self.write(status="KILLED")


def heartbeat(share: float | None = None) -> dict[str, str]:
    """Return the tags of a heartbeat: the time, rounded down so that it is never in the future, and the share done."""
    return {"eman.heartbeat": str(int(time.time()))} | ({} if share is None else {"eman.share": f"{share:.4f}"})
