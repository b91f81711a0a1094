"""Results of the GPU benchmark: a JSON file that is rewritten after every result, and a time limit for each part."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eman.platform.output import atomic_path

Row = Mapping[str, Any]

#: Exit code of a part whose GPU no longer answers, so that it continues in a new process.
LOST_DEVICE = 3


class Report:
    """The results of one part, within the results of all.

    A configuration is recorded as started before it runs. If the process dies, the next one continues after it.

    Args:
        path: The JSON file; read first if it exists.
        part: The part's name.
        seconds: Time for the part.
    """

    def __init__(self, path: Path, part: str, seconds: float) -> None:
        self.path, self.part = path, part
        self.started, self.deadline = time.monotonic(), time.monotonic() + seconds
        self.results = read(path)
        found = self.results["parts"].setdefault(part, {})
        self.found: dict[str, Any] = found
        for name in ("rows", "errors"):
            found.setdefault(name, {})
        found.setdefault("left_out", [])
        self.before = found.get("seconds", 0.0)
        crashed = found.pop("running", None)
        if crashed is not None:
            found["errors"][crashed] = "the process ended"
        self.write()

    @property
    def left(self) -> float:
        """Seconds that are left for the part."""
        return self.deadline - time.monotonic()

    def write(self) -> None:
        """Rewrite the file."""
        self.found["seconds"] = round(self.before + time.monotonic() - self.started, 1)
        write(self.path, self.results)

    def say(self, line: str) -> None:
        """Print a line with the time and the part's name."""
        print(f"{datetime.now(UTC):%H:%M:%S} {time.monotonic() - self.started:6.1f} s  {self.part}: {line}", flush=True)

    def add(self, name: str, row: Row) -> None:
        """Record a result."""
        self.found["rows"][name] = dict(row)
        self.write()
        self.say(f"{name}: {short(row)}")

    def fail(self, name: str, error: str) -> None:
        """Record a configuration that failed."""
        self.found["errors"][name] = error
        self.write()
        self.say(f"{name} FAILED: {error.strip().splitlines()[-1][:300]}")

    def leave_out(self, name: str) -> None:
        """Record a configuration for which no time was left."""
        if name not in self.found["left_out"]:
            self.found["left_out"].append(name)
            self.write()
            self.say(f"{name}: left out, no time left")

    def attempt(self, name: str, measure: Callable[[], Row], *, needs: float = 0.0) -> Row | None:
        """Measure a configuration and record its result, or its error.

        Args:
            name: The configuration's name; one that is recorded already is not measured again.
            measure: Returns the result.
            needs: Seconds that it takes at least; it is left out if fewer are left.
        """
        if name in self.found["rows"]:
            return dict(self.found["rows"][name])
        if name in self.found["errors"]:
            return None
        if self.left <= needs:
            self.leave_out(name)
            return None
        self.found["running"] = name
        self.write()
        try:
            row = measure()
        except Exception as error:
            text = last_lines(error)
            del error
            self.found.pop("running")
            self.fail(name, text)
            release()
            self._check_device()
            return None
        self.found.pop("running")
        self.add(name, row)
        release()
        return row

    def _check_device(self) -> None:
        """End the process if the GPU no longer answers after an error: nothing else would run in it."""
        import torch

        if torch.cuda.is_available():
            try:
                torch.cuda.synchronize()
            except Exception:
                raise SystemExit(LOST_DEVICE) from None


def release() -> None:
    """Free the GPU's memory of the last configuration."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def last_lines(error: BaseException, count: int = 6) -> str:
    """Return the last lines of an error's traceback."""
    return "\n".join("".join(traceback.format_exception(error)).strip().splitlines()[-count:])


def read(path: Path) -> dict[str, Any]:
    """Return the results in a file; empty ones if there is none."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {"about": {}, "parts": {}}


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the file."""
    with atomic_path(path) as new:
        new.write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")


def short(row: Row) -> str:
    """Return a result's numbers and words on one line."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if isinstance(value, bool | int | float | str)
    )
