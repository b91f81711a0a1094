"""Opening MLflow quietly, and understanding its errors. Everything here is imported only when MLflow is needed."""

import logging
import os
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from eman.platform.errors import UserError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Set before MLflow is imported: nothing is sent home, nothing is printed, and a server that is away is noticed soon.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

#: Addresses of stores that are understood.
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def check_address(uri: str) -> None:
    """Raise :class:`UserError` for an address that cannot be a store's, without connecting to it."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme.split("+")[0] not in _SCHEMES:
        raise UserError(
            f"--store {uri}: give an address such as http://HOST:5000, postgresql://HOST/NAME or sqlite:///FILE, or "
            f"leave it out to use the work folder's."
        )
    if scheme == "sqlite" and (not rest.strip("/") or ":memory:" in rest):
        raise UserError(f"--store {uri} names no file, so nothing would be kept; give sqlite:///FILE.")


def open_client(uri: str) -> "MlflowClient":
    """Return MLflow's client for an address. It has connected to a database, but not to a server.

    Raises:
        Exception: Whatever the database's driver raises.
    """
    _knock(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What it logs of a database that does not answer, dozens of lines, it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _knock(uri: str) -> None:
    """Connect to a database's port and hang up: MLflow itself tries for more than a minute, printing every attempt.

    Raises:
        OSError: Nobody answers there.
    """
    address = urlparse(uri)
    port = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(address.scheme.split("+")[0])
    if port is not None and address.hostname is not None:
        socket.create_connection((address.hostname, address.port or port), timeout=10).close()


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the store cannot be reached now, rather than that it refuses a request."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, RestException):  # the server answered: with an error of its own, or of its database
        return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, RequestException | OperationalError | ConnectionError | TimeoutError | socket.gaierror):
            return True
        below = below.__cause__ or below.__context__
    return False


def trouble(uri: str, error: Exception) -> str:
    """Return what is wrong with a store and what to do, in one line without passwords."""
    if isinstance(error, UserError):
        return str(error)
    text = re.sub(r"://[^/@\s]*@", "://...@", first_line(error))
    if "out-of-date database schema" in str(error) or "Can't locate revision" in str(error):
        return (
            f"the MLflow store {shown(uri)} was written by another MLflow version ({text}); install that version, or "
            f"choose another EMAN_HOME."
        )
    return (
        f"the MLflow store {shown(uri)} cannot be reached ({text}); start it, or leave --store and MLFLOW_TRACKING_URI "
        f"out to use the embedded one."
    )


def shown(uri: str) -> str:
    """Return an address without its password."""
    if "@" not in uri:
        return uri
    address = urlparse(uri)
    return f"{address.scheme}://...@{address.netloc.rpartition('@')[2]}{address.path}"
