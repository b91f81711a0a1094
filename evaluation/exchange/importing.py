"""Import a checkpoint as a finished run with a key of its own, to evaluate or to start other runs from."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from eman.evaluation.exchange.layouts import LAYOUTS, read
from eman.platform import checkpoint
from eman.platform.errors import BusyError, UserError
from eman.platform.store.records import TRAINING, new_id
from eman.platform.store.store import Store
from eman.trainers.backbones.registry import PREFIX
from eman.trainers.data import catalog
from eman.trainers.data.known import KNOWN
from eman.trainers.spec.build import make_spec
from eman.trainers.spec.labels import record_params, record_tags, run_title

#: The store's profile of imported runs.
IMPORTED = "imported"

#: Height and width to which images in files are cropped, as in the paper.
IMAGE_SIZE = 224


def import_network(
    path: Path, layout: str, store: Store, *, scheme: str = "default", dataset: str = "imagenet"
) -> Iterator[str]:
    """Make a finished run of a checkpoint, and yield lines to print.

    ``layout`` is a name in :data:`~eman.evaluation.exchange.layouts.LAYOUTS`; scheme and data set are those of its
    training.

    Raises:
        UserError: A name is unknown, the file has another layout, or its images have other channels than the data
            set's. Nothing is written then.
    """
    foreign = read(path, layout)
    catalog.check_dataset(dataset, store.workspace)
    channels = KNOWN[dataset].channels if dataset in KNOWN else foreign.channels
    if channels != foreign.channels:
        raise UserError(
            f"{path} holds a network for images of {foreign.channels} channels, and {dataset} has {channels}; give "
            f"--dataset NAME, the data set that it was trained on."
        )
    fields = {
        "dataset": dataset,
        "image_size": catalog.size_of(dataset, IMAGE_SIZE),
        "backbone": foreign.backbone,
        "source": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    }
    spec = make_spec(LAYOUTS[layout].method, scheme, fields)
    states = {
        role: None if state is None else {PREFIX + name: value for name, value in state.items()}
        for role, state in (("student", foreign.student), ("teacher", foreign.teacher))
    }
    for selection in ("last", "best"):
        content = {"spec": spec.flat(), "step": 0, "epoch": 0, **states}
        checkpoint.save(store.workspace.run_folder(spec.key) / f"{selection}.pt", content, spec.key)
    title = f"{run_title(spec)} · imported"
    with contextlib.suppress(BusyError):  # it was imported before
        tags = {**record_tags(spec, IMPORTED), "eman.launch": new_id(), "eman.workers": "1"}
        log = store.begin(TRAINING, spec.key, title, params=record_params(spec), tags=tags)
        log.finish({}, {"eman.source": path.name})
    networks = "student and teacher" if foreign.teacher else "student"
    yield f"{title} ({spec.key}): {foreign.backbone}, images of {foreign.channels} channels, {networks}"
    yield f"{len(foreign.taken)} tensors taken, {len(foreign.left)} left"
    yield from (f"  {name} -> {place}" for name, place in foreign.taken.items())
    yield from (f"  {name} left" for name in foreign.left)
