"""MLflow's client and errors. MLflow itself is imported only when needed."""

import logging
import os
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from eman.platform.cluster import check_port
from eman.platform.errors import UserError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Set before MLflow is imported: no telemetry, no output, and quick failure if the server is down.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

#: Supported URI schemes.
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def check_address(uri: str) -> None:
    """Raise :class:`UserError` unless an address has the form of a store's, without connecting."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.split("+")[0] not in _SCHEMES:
        raise UserError(
            f"--store {uri}: give an address such as http://HOST:5000, postgresql://HOST/NAME or sqlite:///FILE, or "
            f"leave it out to use the work folder's."
        )
    if scheme in ("http", "https") and "@" in rest.partition("/")[0]:
        raise UserError(
            f"--store {without_password(uri)} holds a login, which would travel with every job; leave it out and set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on each machine."
        )
    if scheme == "sqlite" and (not rest.strip("/") or ":memory:" in rest):
        raise UserError(f"--store {uri} names no file, so nothing would be saved; give sqlite:///FILE.")


def open_client(uri: str) -> "MlflowClient":
    """Return MLflow's client for an address. This connects to a database, but not to a server."""
    address = urlparse(uri)
    port = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(address.scheme.split("+")[0])
    if port is not None and address.hostname is not None:  # MLflow retries for over a minute and prints every attempt
        check_port(f"{address.hostname}:{address.port or port}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # For an unreachable database it logs dozens of lines, then raises the same.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the store is temporarily unreachable, not that it rejected a request."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, RestException):  # the server answered
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RequestException | OperationalError | ConnectionError | TimeoutError | socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def connection_error(uri: str, error: Exception) -> str:
    """Explain in one line, without passwords, why a store cannot be used and what to do."""
    if isinstance(error, UserError):
        return str(error)
    text = re.sub(r"://[^/@\s]*@", "://...@", first_line(error))
    if "out-of-date database schema" in str(error) or "Can't locate revision" in str(error):
        return (
            f"the MLflow store {without_password(uri)} was written by another MLflow version ({text}); install that "
            f"version, or choose another EMAN_HOME."
        )
    return (
        f"the MLflow store {without_password(uri)} cannot be reached ({text}); start it, or leave --store and "
        f"MLFLOW_TRACKING_URI out to use the embedded one."
    )


def without_password(uri: str) -> str:
    """Return an address without its password."""
    if "@" not in uri:
        return uri
    address = urlparse(uri)
    return f"{address.scheme}://...@{address.netloc.rpartition('@')[2]}{address.path}"
