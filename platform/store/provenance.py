"""Provenance of a result: git revision and package versions."""

import getpass
import platform as machine  # noqa: TID251
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@lru_cache(maxsize=1)
def provenance() -> dict[str, str]:
    """Return the tags that record user, source, git revision and versions; those of MLflow by MLflow's names."""
    packages = {f"eman.version.{name}": _version(name) for name in ("torch", "torchvision", "timm", "ray", "mlflow")}
    mlflow = {
        "mlflow.user": _user(),
        "mlflow.source.name": "eman",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _git("rev-parse", "HEAD"),
        "mlflow.source.git.repoURL": re.sub(r"://[^/@]*@", "://", _git("config", "--get", "remote.origin.url")),
    }
    ours = {"eman.git": git_revision(), "eman.python": machine.python_version()}
    return ours | {name: value for name, value in (packages | mlflow).items() if value}


def git_revision() -> str:
    """Return the source's git revision, with ``+changes`` if the tree is dirty, or ``unknown`` outside git."""
    revision = _git("rev-parse", "--short=12", "HEAD")
    changed = "+changes" if revision and _git("status", "--porcelain", "-uno") else ""
    return revision + changed or "unknown"


def _git(*arguments: str) -> str:
    """Return git's answer about the source; empty without git or outside a repository."""
    command = ["git", *arguments]
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    """Return a package's version; empty if it is not installed, as an extra may be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
