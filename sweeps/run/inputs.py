"""The data that trainings and evaluations used, as MLflow lists a run's inputs."""

from collections.abc import Mapping

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.trained import Trained
from eman.platform.store.records import DatasetUse
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog, label_sets
from eman.trainers.training import Training

#: Fields of an evaluation that choose its labelled images.
_LABELS = ("label_fraction", "label_sets", "shots")


def training_inputs(training: Training, workspace: Workspace) -> tuple[DatasetUse, ...]:
    """Return the training images, with their label set, and the held-out images of a training."""
    spec, name = training.spec, training.spec.data.dataset
    about: dict[str, int | str] = {"images": len(training.train), "classes": len(training.dataset.classes)}
    if training.labelled is not None:
        about |= {"labelled": len(training.labelled), "label_set": label_sets.fingerprint(training.labelled)}
    uses = [("training", about)]
    if spec.data.held_out:  # without held-out images, the test images take their place
        uses.append(("held-out", {"images": len(training.held_out), "classes": len(training.dataset.classes)}))
    return tuple(_use(name, training.dataset.hash, context, profile, workspace) for context, profile in uses)


def evaluation_inputs(spec: EvalSpec, trained: Trained) -> tuple[DatasetUse, ...]:
    """Return the images that an evaluation trained on, with its choice of labels, and those that it tested on."""
    name = spec.dataset or trained.spec.data.dataset
    about = {field: str(value) for field, value in spec.flat().items() if field in _LABELS}
    parts: tuple[tuple[str, dict[str, str]], ...] = (("evaluation", about), ("test", {}))
    return tuple(_use(name, trained.data_hash, context, profile, trained.workspace) for context, profile in parts)


def _use(name: str, digest: str, context: str, profile: Mapping[str, int | str], workspace: Workspace) -> DatasetUse:
    return DatasetUse(
        dataset_name(name, context), digest[:36], context, str(catalog.place_of(name, workspace)), profile
    )


def dataset_name(name: str, context: str) -> str:
    """Return the name of a part of a data set in MLflow, which distinguishes a run's inputs by name."""
    return f"{name} {context}"
