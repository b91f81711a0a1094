"""The workspace and the store of a command, from the options before it."""

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from eman.platform import modules
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from eman.platform.store.store import Store

_workspace: ContextVar[Workspace] = ContextVar("workspace")
_given: ContextVar[dict[str, str]] = ContextVar("given")


def set_workspace(
    home: str | None, data: str | None, store: str | None, cache_size: float | None, experiment: str | None
) -> None:
    """Set the command's workspace; ``None`` means the default."""
    given = {
        "EMAN_HOME": home,
        "EMAN_DATA": data,
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "EMAN_CACHE_SIZE": None if cache_size is None else f"{cache_size:g}",
    }
    _given.set({name: value for name, value in given.items() if value})
    _workspace.set(Workspace.from_environment(home, data, store, cache_size, experiment))


def load_modules(given: Sequence[str]) -> None:
    """Import the modules of installed packages, of the nearest ``pyproject.toml``, and those that were given.

    Raises:
        UserError: A module cannot be imported.
    """
    modules.load_installed()
    modules.load(modules.configured(Path.cwd()))
    modules.load(given, given=True)


def workspace() -> Workspace:
    return _workspace.get()


def open_store() -> "Store":
    """Return the store, in which no lost run is left RUNNING."""
    from eman.platform.store.store import Store

    store = Store(workspace())
    store.settle_lost()
    return store


def given_variables() -> dict[str, str]:
    """Return the options before the command as environment variables for a remote job."""
    return _given.get()
