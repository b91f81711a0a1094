"""The workspace and the store of a command, from the options before it."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    from eman.platform.store.store import Store

_workspace: ContextVar[Workspace] = ContextVar("workspace")
_given: ContextVar[dict[str, str]] = ContextVar("given")


def set_workspace(home: str | None, data: str | None, store: str | None, cache_size: float | None) -> None:
    """Set the command's workspace; ``None`` means the default."""
    size = None if cache_size is None else f"{cache_size:g}"
    given = {"EMAN_HOME": home, "EMAN_DATA": data, "MLFLOW_TRACKING_URI": store, "EMAN_CACHE_SIZE": size}
    _given.set({name: value for name, value in given.items() if value})
    _workspace.set(Workspace.from_environment(home, data, store, cache_size))


def workspace() -> Workspace:
    return _workspace.get()


def open_store() -> "Store":
    from eman.platform.store.store import Store

    return Store(workspace())


def given_variables() -> dict[str, str]:
    """Return the given home, data, store and cache size as environment variables for a remote job."""
    return _given.get()
