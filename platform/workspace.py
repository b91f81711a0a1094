"""Folders, store and settings of a process, decided once and passed down."""

import hashlib
import os
import socket
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from eman.platform.cache import Cache
from eman.platform.errors import UserError
from eman.platform.storage import Place


@dataclass(frozen=True)
class Settings:
    """Settings from environment variables. None of them changes a result.

    Attributes:
        checkpoint_seconds: Seconds between checkpoints of a run (``EMAN_CHECKPOINT_SECONDS``).
        storage_patience: Seconds to wait for object storage that does not answer, or for space on a full disk
            (``EMAN_STORAGE_PATIENCE``).
        cache_size: GiB that local copies of files in object storage may take on each machine (``EMAN_CACHE_SIZE``).
        store_patience: Seconds to wait for a store that does not answer (``EMAN_STORE_PATIENCE``).
        most_corrupt: Number of unreadable images that a run replaces before it fails (``EMAN_MOST_CORRUPT``).
        loader_processes: Processes per worker that read images from files and shards; ``None`` for one per core
            (``EMAN_LOADER_PROCESSES``).
        curve_points: Steps of a run whose loss and rates are logged, evenly spaced; 0 for none (``EMAN_CURVE_POINTS``).
    """

    checkpoint_seconds: float = 30.0
    storage_patience: float = 300.0
    cache_size: float = 20.0
    store_patience: float = 300.0
    most_corrupt: int = 20
    loader_processes: int | None = None
    curve_points: int = 100

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
        home: Work folder, or its URI such as ``s3://bucket/eman``: checkpoints, cached features, the embedded store.
        data: Location of the data sets: a folder, or a URI such as ``s3://bucket/data``.
        store: MLflow tracking URI. Default: a SQLite file in ``home``, if that is a folder.
        experiment: MLflow experiment that holds the runs.
        cache: Folder of this machine for local copies, locks and temporary files, if ``home`` is a URI.
        settings: See :class:`Settings`.
    """

    home: str = ".eman"
    data: str = "~/.cache/eman"
    store: str = ""
    experiment: str = "eman"
    cache: str = "~/.cache/eman-storage"
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for name in ("home", "data", "cache"):
            object.__setattr__(self, name, _absolute(str(getattr(self, name))))
        if self.remote and not self.store:
            raise UserError(
                f"the work folder {self.home} cannot hold an MLflow store; give --store, the address of an MLflow "
                f"server, or sqlite:///PATH for runs on one machine."
            )
        object.__setattr__(self, "store", self.store or f"sqlite:///{self.home}/mlflow.db")

    @classmethod
    def from_environment(
        cls,
        home: str | None = None,
        data: str | None = None,
        store: str | None = None,
        cache_size: float | None = None,
        experiment: str | None = None,
    ) -> "Workspace":
        """Return a workspace from the arguments, else from ``EMAN_HOME``, ``EMAN_DATA``, ``MLFLOW_TRACKING_URI``,
        ``MLFLOW_EXPERIMENT_NAME``, ``EMAN_CACHE`` and :class:`Settings`' variables, else the defaults.

        Raises:
            UserError: A variable of :class:`Settings` is not a number, the work folder is a file, or it is a URI and
                there is no store.
        """
        settings = Settings.from_environment()
        workspace = cls(
            home or os.environ.get("EMAN_HOME") or cls.home,
            data or os.environ.get("EMAN_DATA") or cls.data,
            store or os.environ.get("MLFLOW_TRACKING_URI") or cls.store,
            experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or cls.experiment,
            os.environ.get("EMAN_CACHE") or cls.cache,
            settings if cache_size is None else replace(settings, cache_size=cache_size),
        )
        if not workspace.remote and Path(workspace.home).is_file():
            raise UserError(f"--home {workspace.home} is a file; give a folder.")
        return workspace

    def here(self) -> "Workspace":
        """Return this workspace with this machine's ``EMAN_CACHE``, if it is set."""
        return replace(self, cache=os.environ.get("EMAN_CACHE") or self.cache)

    @property
    def remote(self) -> bool:
        """Whether ``home`` is a URI."""
        return "://" in self.home

    @property
    def storage(self) -> Place:
        """The work folder, or its URI with a cache."""
        patience = self.settings.storage_patience
        if not self.remote:
            return Place(self.home, patience)
        bound = round(self.settings.cache_size * 2**30)
        return Place(self.home, patience, Cache(Path(self.cache) / "copies", bound))

    @property
    def runs(self) -> Place:
        """The folder of all runs' folders."""
        return self.storage / "runs"

    def run_folder(self, key: str) -> Place:
        """Return the folder of a run's checkpoints and features."""
        return self.runs / key

    @property
    def local(self) -> Path:
        """The work folder, or a folder of this machine that belongs to its URI."""
        if not self.remote:
            return Path(self.home)
        return Path(self.cache) / hashlib.sha256(self.home.encode()).hexdigest()[:16]

    def lock_file(self, key: str, name: str = "lock") -> Path:
        """Return the file whose lock keeps other processes on this machine from a run."""
        return self.local / "runs" / key / name

    @property
    def machine(self) -> str:
        """Name of the machine on which :meth:`lock_file` excludes others; unique even if host names are not."""
        host = socket.gethostname()
        if not self.remote:
            return host
        self.local.mkdir(parents=True, exist_ok=True)
        stat = self.local.stat()
        return f"{host}-{stat.st_dev:x}-{stat.st_ino:x}"

    def unsent_folder(self, key: str) -> Path:
        """Return the local folder for files of a run that could not be written to storage."""
        return self.local / "unsent" / key

    @property
    def spool_folder(self) -> Path:
        """Local folder of entries that could not be written to the store yet."""
        return self.local / "spool"

    @property
    def ray_folder(self) -> Path:
        """Local folder of Ray Tune and Ray Train during a sweep."""
        return self.local / "ray"

    @property
    def data_folder(self) -> Path:
        """Local folder of in-memory data sets; the default folder if ``data`` is a URI."""
        return Path(type(self).data).expanduser().resolve() if "://" in self.data else Path(self.data)


def _absolute(where: str) -> str:
    """Return a folder's absolute path, or a URI without a slash at its end."""
    return where.rstrip("/") if "://" in where else str(Path(where).expanduser().resolve())
