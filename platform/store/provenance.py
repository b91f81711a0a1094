"""Provenance of a result: git revision and package versions."""

import platform as machine  # noqa: TID251
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path


@lru_cache(maxsize=1)
def provenance() -> dict[str, str]:
    """Return the tags that record the git revision and versions."""
    packages = {f"eman.version.{name}": version(name) for name in ("torch", "torchvision", "ray", "mlflow")}
    return {"eman.git": git_revision(), "eman.python": machine.python_version(), **packages}


def git_revision() -> str:
    """Return the source's git revision, with ``+changes`` if the tree is dirty, or ``unknown`` outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
