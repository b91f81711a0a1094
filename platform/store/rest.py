"""Read an MLflow server by its REST API, without MLflow, whose import takes longer than most commands.

See https://mlflow.org/docs/latest/rest-api.html. A server that needs more than a user's name and password or a token,
for example client certificates, is read through :class:`mlflow.MlflowClient`.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eman.platform.errors import UserError
from eman.platform.store.records import Point, Record, make_record

if TYPE_CHECKING:
    from requests import Session

#: MLflow's variables that this module supports. With any other, MLflow's own client is used.
_FOLLOWED = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

#: Timeout of a request in seconds.
_SECONDS = 60.0


def readable(uri: str) -> bool:
    """Return whether this module can read the store at a URI, with the credentials that are set."""
    special = [name for name in os.environ if name.startswith("MLFLOW_TRACKING_") and name not in _FOLLOWED]
    special += [name for name in ("MLFLOW_WORKSPACE",) if os.environ.get(name)]
    return uri.startswith(("http://", "https://")) and not special and not Path("~/.mlflow").expanduser().exists()


class ServerReader:
    """Reads one experiment of a server, by name. An experiment that does not exist reads as empty."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri.rstrip("/"), experiment
        self._id = ""

    def experiment_tags(self) -> dict[str, str] | None:
        """Return the experiment's tags, or ``None`` if it does not exist."""
        answer = self._ask("GET", "experiments/get-by-name", {"experiment_name": self.experiment})
        if answer is None or answer["experiment"]["lifecycle_stage"] != "active":
            return None
        self._id = answer["experiment"]["experiment_id"]
        return _pairs(answer["experiment"].get("tags", []))

    def search(self, condition: str, limit: int, token: str | None) -> tuple[list[Record], str | None]:
        """Return a page of the runs that have a key and match an MLflow filter, and the next page's token.

        Call :meth:`experiment_tags` first, which finds the experiment.
        """
        body = {"experiment_ids": [self._id], "filter": condition, "max_results": limit, "page_token": token}
        answer = self._ask("POST", "runs/search", {name: value for name, value in body.items() if value}) or {}
        return list(_records(answer.get("runs", []))), answer.get("next_page_token")

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Return all logged values of a run's metric."""
        points: list[Point] = []
        query = {"run_id": run_id, "metric_key": metric, "max_results": 25_000}
        while True:
            answer = self._ask("GET", "metrics/get-history", query) or {}
            points += [
                Point(int(m.get("step", 0)), float(m["value"]), int(m["timestamp"]) / 1000)
                for m in answer.get("metrics", [])
            ]
            if not answer.get("next_page_token"):
                return points
            query["page_token"] = answer["next_page_token"]

    @cached_property
    def _session(self) -> "Session":
        import requests

        session = requests.Session()
        user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
        if user:
            session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        elif token:
            session.headers["Authorization"] = f"Bearer {token}"
        return session

    def _ask(self, method: str, path: str, content: Mapping[str, Any]) -> Any:
        """Return the server's answer, or ``None`` for a missing resource.

        Raises:
            ConnectionError: The server is overloaded or failing.
            UserError: The server refuses the request.
        """
        given = {"json": dict(content)} if method == "POST" else {"params": dict(content)}
        answer = self._session.request(method, f"{self.uri}/api/2.0/mlflow/{path}", timeout=_SECONDS, **given)  # type: ignore[arg-type]
        if answer.status_code >= 500 or answer.status_code == 429:
            raise ConnectionError(f"the server answers {answer.status_code}")
        if answer.status_code == 404 and "RESOURCE_DOES_NOT_EXIST" in answer.text:
            return None
        if answer.status_code == 401:
            raise UserError(
                f"the MLflow server {self.uri} asks for another login; set MLFLOW_TRACKING_USERNAME and "
                f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            )
        if not answer.ok:
            raise UserError(f"the MLflow server refuses to be read: {answer.status_code} {answer.text[:200].strip()}")
        return answer.json()


def _records(runs: list[dict[str, Any]]) -> Iterator[Record]:
    for run in runs:
        info, data = run["info"], run.get("data", {})
        tags = _pairs(data.get("tags", []))
        if "eman.key" in tags:
            name, state = info.get("run_name", ""), info["status"]
            start, end = int(info.get("start_time") or 0), int(info.get("end_time") or 0)
            metrics = {metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])}
            params = _pairs(data.get("params", []))
            yield make_record(info["run_id"], name, state, start, end, metrics, params, tags)


def _pairs(entries: list[dict[str, str]]) -> dict[str, str]:
    return {entry["key"]: entry.get("value", "") for entry in entries}
