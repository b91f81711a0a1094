"""Put a run's network into MLflow: as a logged model with its metrics, and as a version of a registered model."""

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eman.evaluation.exchange import serving
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError, first_line
from eman.platform.store.records import Record
from eman.platform.store.store import Store
from eman.sweeps.run.inputs import dataset_name
from eman.sweeps.runs import evaluations_of

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric

#: MLflow refuses other names of registered models and aliases.
_NAME = r"[^/:\s.%\"'][^/:.%\"']{0,99}"


def register(record: Record, store: Store, name: str, alias: str | None, *, network: str, selection: str) -> str:
    """Register a finished run's network, and return a line to print.

    Raises:
        UserError: The run has no such network, or MLflow refuses the name or alias.
    """
    from mlflow.exceptions import MlflowException

    for flag, word in (("--name", name), ("--alias", alias)):
        if word is not None and not re.fullmatch(_NAME, word):
            raise UserError(f"{flag} {word!r}: give up to 100 characters without / : . % or quotes.")
    trained = Trained(record.key, store.workspace, network, selection)
    model = _logged(record, store, trained) or _log(record, store, trained)
    client = store.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise UserError(f"--name {name}: MLflow refuses it ({first_line(error)}).") from error
    about = f"the {network} after the {selection} epoch of {record.name}"
    version = client.create_model_version(
        name, model.artifact_location, record.run_id, description=about[0].upper() + about[1:], model_id=model.model_id
    )
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)
    address = f"models:/{name}@{alias}" if alias is not None else f"models:/{name}/{version.version}"
    return f"{address}: version {version.version} of {name}, {about}"


def _logged(record: Record, store: Store, trained: Trained) -> "LoggedModel | None":
    """Return the network's logged model, if it has one."""
    condition = f"source_run_id = '{record.run_id}' AND name = '{_name(trained)}'"
    for model in store.client.search_logged_models([store.experiment_id], condition):
        if str(model.status) == "READY":
            return model
    return None


def _log(record: Record, store: Store, trained: Trained) -> "LoggedModel":
    """Write the network as a logged model, with the metrics of its run and of its evaluations."""
    from mlflow.entities import LoggedModelOutput

    client, tags = store.client, {"eman.key": record.key, "network": trained.network, "selection": trained.selection}
    tags |= {name: record.tags[name] for name in ("method", "scheme", "profile", "seed") if name in record.tags}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model"
        serving.write(trained, written, record.name)
        model = client.create_logged_model(
            store.experiment_id, _name(trained), record.run_id, tags, dict(record.params), "eman"
        )
        client.log_model_artifacts(model.model_id, str(written))
    client.log_outputs(record.run_id, [LoggedModelOutput(model.model_id, 0)])
    for run, metrics in _metrics(record, store, trained, model.model_id):
        store.with_retries(partial(client.log_batch, run.run_id, metrics))
    return client.finalize_logged_model(model.model_id, "READY")


def _metrics(record: Record, store: Store, trained: Trained, model: str) -> "list[tuple[Record, list[Metric]]]":
    """Return what was measured on the network, by run, each linked to the model and the data set."""
    from mlflow.entities import Metric

    wanted = (trained.network, trained.selection)
    evaluations = [r for r in evaluations_of(record, store) if (r.params["network"], r.params["selection"]) == wanted]
    measured = [(run, run.metrics) for run in evaluations if run.status == "done"]
    ending = "_best" if trained.selection == "best" else ""
    start = "test/teacher_" if trained.network == "teacher" else "test/"
    own = {
        name: value
        for name, value in record.metrics.items()
        if name.startswith(start)
        and name.endswith("_best") == bool(ending)
        and ("teacher" in name) == ("teacher" in start)
    }
    linked = []
    for run, metrics in [(record, own), *measured]:
        name, digest = dataset_name(run.params.get("dataset") or record.params["dataset"], "test"), trained.data_hash
        # The same points that the run has, so that MLflow does not add others.
        points = [(metric, store.history(run.run_id, metric)[-1]) for metric in metrics]
        batch = [Metric(m, p.value, round(1000 * p.time), p.step, model, name, digest, run.run_id) for m, p in points]
        linked.append((run, batch))
    return [(run, metrics) for run, metrics in linked if metrics]


def _name(trained: Trained) -> str:
    return f"{trained.network}-{trained.selection}"
