"""Entries that a store could not take because it was away: kept on disk, one file a run, in order, until it can."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eman.platform.lock import locked

Entry = Mapping[str, Any]

#: What an entry holds.
_PARTS = {"metrics", "params", "tags", "status"}


def kept(folder: Path) -> list["Spool"]:
    """Return the spools in a folder that hold something."""
    return [Spool(folder, path.stem) for path in sorted(folder.glob("*.jsonl")) if re.fullmatch(r"\w+", path.stem)]


class Spool:
    """Entries of one run, plain values each.

    Args:
        folder: Where spools are kept.
        run_id: MLflow's identifier of the run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = folder / f"{run_id}.jsonl"
        self._lock = self.path.with_suffix(".lock")

    def append(self, entry: Entry) -> None:
        """Keep an entry."""
        with locked(self._lock, wait=True), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def deliver(self, send: Callable[[Entry], None], *, wait: bool = False) -> bool:
        """Send all entries in order and forget them. What ``send`` raises leaves them kept; what was sent before that
        is sent again, so an entry must carry its own time stamps.

        Args:
            send: Takes one entry.
            wait: Wait for a process that delivers this spool; otherwise leave it to that one.

        Returns:
            Whether there was something.
        """
        if not self.path.exists():
            return False
        with locked(self._lock, wait=wait) as mine:
            if not mine or not self.path.exists():
                return False
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                entry: Any = None
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut short
                    entry = json.loads(line)
                if isinstance(entry, dict) and entry.keys() >= _PARTS:
                    send(entry)
            self.path.unlink()
        return True

    def set_aside(self) -> None:
        """Rename the file so that it is not delivered again."""
        self.path.rename(self.path.with_suffix(".refused"))
