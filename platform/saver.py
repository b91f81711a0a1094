"""Write the files of a run while it trains: at once to a folder, in the background to object storage."""

import logging
import math
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from eman.platform import checkpoint
from eman.platform.errors import first_line
from eman.platform.sealed import write_sealed
from eman.platform.storage import Place, StorageError

#: Longest pause in seconds between attempts to reach storage that does not answer.
_LONGEST_PAUSE = 10.0

#: Kind of the checkpoints to resume from.
_RESUME = "resume"

log = logging.getLogger("eman")


class Saver:
    """Write the files of one run.

    While object storage does not answer, the run goes on. The newest content of each kind is kept in memory, and the
    write is retried. :meth:`flush` waits for it.

    Args:
        folder: The run's folder in storage.
        key: Key of the run.
        unsent: Local folder for files that could not be written to storage.
    """

    def __init__(self, folder: Place, key: str, unsent: Path) -> None:
        self.folder, self.key, self.unsent = folder, key, unsent
        self._remote = folder.local is None
        self._waiting: dict[str, tuple[str, memoryview]] = {}  # by kind: name and content
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed, self._reason = False, ""
        self._failing_since: float | None = None

    def recover(self) -> None:
        """Write the files that an earlier process on this machine could not write."""
        for path in sorted(self.unsent.glob("*.pt")):
            write_sealed(self.folder / path.name, path.read_bytes())
            path.unlink()
        shutil.rmtree(self.unsent, ignore_errors=True)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint: to a folder before returning, to object storage in the background."""
        encoded = checkpoint.encode(content, self.key)
        if self._remote:
            self._enqueue(name, name, encoded)
        else:
            write_sealed(self.folder / name, encoded)

    def save_newest(self, step: int, content: dict[str, Any]) -> None:
        """Write the checkpoint of a step, to resume from. It replaces an older one that is not written yet."""
        encoded = checkpoint.encode(content, self.key)
        if self._remote:
            self._enqueue(_RESUME, checkpoint.newest_name(step), encoded)
        else:
            checkpoint.write_newest(self.folder, checkpoint.newest_name(step), encoded)

    @property
    def has_pending(self) -> bool:
        """Whether files are still to be written."""
        with self._changed:
            return bool(self._waiting)

    def flush(self) -> None:
        """Wait until everything is written, as long as storage answers.

        Raises:
            StorageError: Storage has not answered for the folder's ``patience``. The rest is kept in ``unsent``, from
                which :meth:`recover` writes it.
        """
        started = time.monotonic()

        def is_over() -> bool:
            since = max(started, self._failing_since or math.inf)
            return not self._waiting or time.monotonic() - since >= self.folder.patience

        with self._changed:
            while not is_over():
                self._changed.wait(timeout=0.5)
            left = dict(self._waiting.values())
        if not left:
            return
        for name, content in left.items():
            (Place(str(self.unsent)) / name).write(content)
        raise StorageError(
            f"{self.folder} cannot be written ({self._reason}); gave up after "
            f"{self.folder.patience:.0f} s. Nothing is lost: {len(left)} files are kept in {self.unsent}. Repeat the "
            f"command on this machine when the storage answers."
        )

    def close(self) -> None:
        """End the background thread, and drop what is not written yet."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _enqueue(self, kind: str, name: str, content: memoryview) -> None:
        with self._changed:
            self._waiting[kind] = name, content
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="eman-saver", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if not self._closed and pause:
                    self._changed.wait_for(lambda: self._closed, timeout=pause)
                if self._closed:
                    return
                kind, entry = next(iter(self._waiting.items()))
            try:
                self._write(kind, *entry)
                pause, self._failing_since = 0.0, None
            except Exception as error:
                if not pause:
                    log.warning("no checkpoint of %s for now, training goes on: %s", self.key, first_line(error))
                self._reason, self._failing_since = first_line(error), self._failing_since or time.monotonic()
                pause = min(2 * pause or 0.5, _LONGEST_PAUSE)
                continue
            with self._changed:
                if self._waiting.get(kind) is entry:  # nothing newer has come
                    del self._waiting[kind]
                self._changed.notify_all()

    def _write(self, kind: str, name: str, content: memoryview) -> None:
        if kind == _RESUME:
            checkpoint.write_newest(self.folder, name, content)
        else:
            write_sealed(replace(self.folder, patience=0.0) / name, content)
