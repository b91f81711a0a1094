"""Where things are kept on this machine, by environment or by the documented default."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eman.platform.errors import UserError


def home_folder() -> Path:
    """``$EMAN_HOME``, by default ``.eman`` in the current folder: MLflow's database, checkpoints, cached features."""
    return Path(os.environ.get("EMAN_HOME") or ".eman").expanduser().resolve()


def data_folder() -> Path:
    """``$EMAN_DATA``, by default ``~/.cache/eman``: data sets that are held in memory."""
    given = os.environ.get("EMAN_DATA") or ""
    return Path(given if given and "://" not in given else "~/.cache/eman").expanduser().resolve()


def data_place() -> str:
    """Where image folders and shards are looked for: ``$EMAN_DATA``, which may be a URI, or the folder above."""
    given = os.environ.get("EMAN_DATA") or ""
    return given.rstrip("/") if "://" in given else str(data_folder())


def run_folder(key: str) -> Path:
    """Checkpoints and cached features of the run with this key."""
    return home_folder() / "runs" / key


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to; it takes the place of ``path`` when all is written, or goes."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write to; it is renamed to ``path`` when all is written, or goes.

    Raises:
        UserError: There is something at ``path``: a folder, unlike a file, is never replaced.
    """
    if path.exists():
        raise UserError(f"{path} is there already, and a folder is never replaced; remove it, or give another name.")
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
