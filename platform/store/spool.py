"""What a store that was away could not take: kept on disk, one file a run, in order, until it can."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eman.platform.lock import locked

Entry = Mapping[str, Any]


def kept(folder: Path) -> list["Spool"]:
    """The spools that hold something."""
    return [Spool(folder, path.stem) for path in sorted(folder.glob("*.jsonl"))]


class Spool:
    """Entries of one run, plain values each."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = folder / f"{run_id}.jsonl"
        self._lock = self.path.with_suffix(".lock")

    def append(self, entry: Entry) -> None:
        """Keeps an entry."""
        with locked(self._lock, wait=True), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def deliver(self, send: Callable[[Entry], None], *, wait: bool = False) -> bool:
        """Sends all entries in order and forgets them. What ``send`` raises leaves them kept; what was sent before that
        is sent again, so an entry must carry its own time stamps.

        Args:
            send: Takes one entry.
            wait: Wait for a process that is at this spool; otherwise leave it to that one.

        Returns:
            Whether there was something.
        """
        if not self.path.exists():
            return False
        with locked(self._lock, wait=wait) as mine:
            if not mine or not self.path.exists():
                return False
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut short
                    send(json.loads(line))
            self.path.unlink()
        return True
