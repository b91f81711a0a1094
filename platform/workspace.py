"""Where a process keeps and finds its files, decided once and handed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eman.platform.errors import UserError


@dataclass(frozen=True)
class Settings:
    """What an operator may change by environment variables. None of it changes a result.

    Attributes:
        checkpoint_seconds: Seconds between two checkpoints of a run (``EMAN_CHECKPOINT_SECONDS``).
        disk_patience: Seconds to wait for room while the disk is full (``EMAN_DISK_PATIENCE``).
        store_patience: Seconds to wait for a store that does not answer (``EMAN_STORE_PATIENCE``).
        most_corrupt: Unreadable images of a data set that a run replaces by others before it fails
            (``EMAN_MOST_CORRUPT``).
        loader_processes: Processes a worker starts to read images from files and shards; ``None``: one for each core
            that it has (``EMAN_LOADER_PROCESSES``).
    """

    checkpoint_seconds: float = 30.0
    disk_patience: float = 120.0
    store_patience: float = 300.0
    most_corrupt: int = 20
    loader_processes: int | None = None

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables; raise :class:`UserError` for one that is no number."""
        values = os.environ
        return cls(
            _number(values, "EMAN_CHECKPOINT_SECONDS", cls.checkpoint_seconds),
            _number(values, "EMAN_DISK_PATIENCE", cls.disk_patience),
            _number(values, "EMAN_STORE_PATIENCE", cls.store_patience),
            int(_number(values, "EMAN_MOST_CORRUPT", cls.most_corrupt)),
            int(_number(values, "EMAN_LOADER_PROCESSES", 0)) if values.get("EMAN_LOADER_PROCESSES") else None,
        )


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"{name} is {text!r}; give a number that is 0 or more, or unset it for {default:g}.")
    return number


@dataclass(frozen=True)
class Workspace:
    """The folders and the store that a process works with.

    Attributes:
        home: Work folder: checkpoints, cached features, the embedded store.
        data: Where data sets lie: a folder, or a URI such as ``s3://bucket/data``.
        store: MLflow tracking URI. Default: a SQLite file in ``home``.
        settings: See :class:`Settings`.
    """

    home: Path = Path(".eman")
    data: str = "~/.cache/eman"
    store: str = ""
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", Path(self.home).expanduser().resolve())
        remote = "://" in self.data
        data = self.data.rstrip("/") if remote else str(Path(self.data).expanduser().resolve())
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "store", self.store or f"sqlite:///{self.home / 'mlflow.db'}")

    @classmethod
    def from_environment(
        cls, home: str | None = None, data: str | None = None, store: str | None = None
    ) -> "Workspace":
        """Return the workspace of this process: what is given, else ``EMAN_HOME``, ``EMAN_DATA`` and
        ``MLFLOW_TRACKING_URI``, else the defaults.

        Raises:
            UserError: A variable of :class:`Settings` is no number, or the work folder is a file.
        """
        found = cls(
            Path(home or os.environ.get("EMAN_HOME") or cls.home),
            data or os.environ.get("EMAN_DATA") or cls.data,
            store or os.environ.get("MLFLOW_TRACKING_URI") or cls.store,
            Settings.from_environment(),
        )
        if found.home.is_file():
            raise UserError(f"--home {found.home} is a file; give a folder.")
        return found

    def run_folder(self, key: str) -> Path:
        """Return where the run with this key keeps its checkpoints and features."""
        return self.home / "runs" / key

    @property
    def spool_folder(self) -> Path:
        """Entries that the store could not take yet."""
        return self.home / "spool"

    @property
    def ray_folder(self) -> Path:
        """What Ray Tune and Ray Train keep while a sweep runs."""
        return self.home / "ray"

    @property
    def artifacts_folder(self) -> Path:
        """Artifacts of the embedded store."""
        return self.home / "artifacts"

    @property
    def lock_folder(self) -> Path:
        """Locks between processes that share this work folder."""
        return self.home / "locks"

    @property
    def data_folder(self) -> Path:
        """Folder of the data sets that are held in memory; the default where ``data`` is a URI."""
        return Path(type(self).data).expanduser().resolve() if "://" in self.data else Path(self.data)
