"""What the options before the command say: the workspace that every command works in."""

from contextvars import ContextVar

from eman.platform.workspace import Workspace

_workspace: ContextVar[Workspace] = ContextVar("workspace")
_given: ContextVar[dict[str, str]] = ContextVar("given")


def enter(home: str | None, data: str | None, store: str | None) -> None:
    """Set the workspace of the command that follows; ``None`` stands for the default."""
    given = {"EMAN_HOME": home, "EMAN_DATA": data, "MLFLOW_TRACKING_URI": store}
    _given.set({name: value for name, value in given.items() if value})
    _workspace.set(Workspace.from_environment(home, data, store))


def workspace() -> Workspace:
    """Return the workspace of the command that is running."""
    return _workspace.get()


def given_variables() -> dict[str, str]:
    """Return what was given of home, data and store, as environment variables for a job that runs elsewhere."""
    return _given.get()
