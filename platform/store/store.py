"""The MLflow store: every sweep, training and evaluation is a run with a key, looked up before it is made.

By default it is a SQLite file in the work folder and needs no server.
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
from eman.platform.store.writer import RunLog, deliver
from eman.platform.workspace import Workspace


def existing_store(where: str, workspace: Workspace) -> "Store":
    """Return a store that must exist: by its address, a work folder, or a SQLite file.

    Raises:
        UserError: There is none.
    """
    if "://" not in where:
        path = Path(where).expanduser()
        path = path / "mlflow.db" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{where} holds no MLflow store; give a work folder, a SQLite file or a server's address.")
        where = f"sqlite:///{path.resolve()}"
    return Store(replace(workspace, store=where))


class Store(Connection):
    """A store to read and to write. See :class:`~eman.platform.store.connection.Connection`."""

    def begin(
        self,
        kind: str,
        key: str,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        again: str = "",
    ) -> RunLog:
        """Claim the run with this key, making it where there is none; see :func:`eman.platform.store.claims.claim`.

        Raises:
            BusyError: Another process is running it, or has done it.
        """
        return claims.claim(self, claims.Entry(kind, key, name, params, tags, parent), again)

    def deliver(self) -> int:
        """Write what processes that have ended had to keep on disk; return the number of runs that it was for."""
        spools = spool.kept(self.workspace.spool_folder)
        return sum(self.patiently(partial(deliver, self, kept)) for kept in spools)

    def settle_lost(self) -> int:
        """Mark runs KILLED that MLflow shows as RUNNING although their process is gone; return their number.

        Reading commands call it. It does nothing in a work folder that cannot be written to.
        """
        lost = [record for record in self.open_records() if record.lost]
        if not lost or (self.local and not os.access(self.path.parent, os.W_OK)):
            return 0
        settled = 0
        for record in lost:
            now = record_of(self.patiently(partial(self.client.get_run, record.run_id)))
            if now.lost:
                end = round(1000 * max(now.heartbeat, now.start))
                self.patiently(partial(self.client.set_terminated, record.run_id, "KILLED", end))
                settled += 1
        return settled
