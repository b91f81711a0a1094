"""The MLflow store: every sweep, training and evaluation is a run with a key.

By default it is a SQLite file in the work folder, without a server.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError
from eman.platform.store import claims, spool
from eman.platform.store.connection import Connection, record_of
from eman.platform.store.writer import RunLog
from eman.platform.workspace import Workspace


def store_at(where: str, workspace: Workspace, *, new: bool = False) -> "Store":
    """Return the store at an address, in a work folder or in a SQLite file; it must exist unless it may be ``new``."""
    if "://" not in where:
        path = Path(where).expanduser()
        path = path if path.is_file() or path.suffix == ".db" else path / "mlflow.db"
        if not new and not path.is_file():
            raise UserError(f"{where} holds no MLflow store; give a work folder, a SQLite file or a server's address.")
        where = f"sqlite:///{path.resolve()}"
    return Store(replace(workspace, store=where))


class Store(Connection):
    """A store to read and write. See :class:`~eman.platform.store.connection.Connection`."""

    def begin(
        self,
        kind: str,
        key: str,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        previous_owner: str = "",
    ) -> RunLog:
        """Claim the run with this key, creating it if needed; see :func:`eman.platform.store.claims.claim`."""
        return claims.claim(self, claims.Entry(kind, key, name, params, tags, parent), previous_owner)

    def deliver(self) -> int:
        """Write the pending entries on disk to the store; return the number of runs that had any."""
        return sum(self.with_retries(entries.deliver) for entries in spool.pending(self))

    @property
    def read_only(self) -> bool:
        """Whether the store is a file in a folder where this process may not write."""
        return self.local and not os.access(self.path.parent, os.W_OK)

    def settle_lost(self) -> int:
        """Mark lost runs, which MLflow still shows as RUNNING, as KILLED; return their number.

        Reading commands call it. In a read-only work folder it does nothing.
        """
        lost = [record for record in self.records(status="RUNNING") if record.lost]
        if not lost or self.read_only:
            return 0
        settled = 0
        for record in lost:
            now = record_of(self.with_retries(partial(self.client.get_run, record.run_id)))
            if now.lost:
                end = round(1000 * max(now.heartbeat, now.start))
                self.with_retries(partial(self.client.set_terminated, record.run_id, "KILLED", end))
                settled += 1
        return settled
