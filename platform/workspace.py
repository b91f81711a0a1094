"""Folders, store and settings of a process, decided once and passed down."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eman.platform.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Settings from environment variables. None of them changes a result.

    Attributes:
        checkpoint_seconds: Seconds between checkpoints of a run (``EMAN_CHECKPOINT_SECONDS``).
        disk_patience: Seconds to wait for space on a full disk (``EMAN_DISK_PATIENCE``).
        store_patience: Seconds to wait for a store that does not answer (``EMAN_STORE_PATIENCE``).
        most_corrupt: Number of unreadable images that a run replaces before it fails (``EMAN_MOST_CORRUPT``).
        loader_processes: Processes per worker that read images from files and shards; ``None`` for one per core
            (``EMAN_LOADER_PROCESSES``).
    """

    checkpoint_seconds: float = 30.0
    disk_patience: float = 120.0
    store_patience: float = 300.0
    most_corrupt: int = 20
    loader_processes: int | None = None

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables; raise :class:`UserError` if one is not a number."""
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name = f"EMAN_{setting.name.upper()}"
            if text := os.environ.get(name):
                kind = float if isinstance(setting.default, float) else int
                try:
                    number = float(text)
                except ValueError:
                    number = -1.0
                if not 0 <= number < float("inf"):
                    default = "the default" if setting.default is None else f"{setting.default:g}"
                    raise UserError(f"{name} is {text!r}; give a number that is 0 or more, or unset it for {default}.")
                values[setting.name] = kind(number)
        return cls(**values)


@dataclass(frozen=True)
class Workspace:
    """Folders and store of a process.

    Attributes:
        home: Work folder: checkpoints, cached features, the embedded store.
        data: Location of the data sets: a folder, or a URI such as ``s3://bucket/data``.
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
        """Return a workspace from the arguments, else from ``EMAN_HOME``, ``EMAN_DATA`` and
        ``MLFLOW_TRACKING_URI``, else the defaults.

        Raises:
            UserError: A variable of :class:`Settings` is not a number, or the work folder is a file.
        """
        workspace = cls(
            Path(home or os.environ.get("EMAN_HOME") or cls.home),
            data or os.environ.get("EMAN_DATA") or cls.data,
            store or os.environ.get("MLFLOW_TRACKING_URI") or cls.store,
            Settings.from_environment(),
        )
        if workspace.home.is_file():
            raise UserError(f"--home {workspace.home} is a file; give a folder.")
        return workspace

    def run_folder(self, key: str) -> Path:
        """Return the folder of a run's checkpoints and features."""
        return self.home / "runs" / key

    @property
    def spool_folder(self) -> Path:
        """Folder of entries that could not be written to the store yet."""
        return self.home / "spool"

    @property
    def ray_folder(self) -> Path:
        """Folder of Ray Tune and Ray Train during a sweep."""
        return self.home / "ray"

    @property
    def data_folder(self) -> Path:
        """Local folder of in-memory data sets; the default folder if ``data`` is a URI."""
        return Path(type(self).data).expanduser().resolve() if "://" in self.data else Path(self.data)
