"""Entries kept on disk while the store is down, one file per run, in order."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eman.platform.lock import locked

Entry = Mapping[str, Any]

#: Required keys of an entry.
_KEYS = {"metrics", "params", "tags", "status"}


def pending(folder: Path) -> list["Spool"]:
    """Return the spools in a folder that have entries."""
    return [Spool(folder, path.stem) for path in sorted(folder.glob("*.jsonl")) if re.fullmatch(r"\w+", path.stem)]


class Spool:
    """Pending entries of one run.

    Args:
        folder: Folder of all spools.
        run_id: MLflow's identifier of the run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = folder / f"{run_id}.jsonl"
        self._lock = self.path.with_suffix(".lock")

    def append(self, entry: Entry) -> None:
        """Append an entry."""
        with locked(self._lock, wait=True), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def deliver(self, send: Callable[[Entry], None], *, wait: bool = False) -> bool:
        """Send all entries in order, then delete them. If ``send`` raises, all are kept and sent again next time, so an
        entry must carry its own time stamps.

        Args:
            send: Called with each entry.
            wait: Wait for another process that is delivering this spool, instead of leaving it to that process.

        Returns:
            Whether there were entries.
        """
        if not self.path.exists():
            return False
        with locked(self._lock, wait=wait) as acquired:
            if not acquired or not self.path.exists():
                return False
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                entry: Any = None
                with contextlib.suppress(json.JSONDecodeError):  # a line truncated by a kill
                    entry = json.loads(line)
                if isinstance(entry, dict) and entry.keys() >= _KEYS:
                    send(entry)
            self.path.unlink()
        return True

    def set_aside(self) -> None:
        """Rename the file so that it is not delivered again."""
        self.path.rename(self.path.with_suffix(".refused"))
