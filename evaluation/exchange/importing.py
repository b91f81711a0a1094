"""Importing a checkpoint: it becomes a finished run of the store, with a key of its own.

Every evaluation works on it, and training may start from it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from eman.evaluation.exchange.layouts import LAYOUTS, ForeignNetworks, read
from eman.platform import checkpoint
from eman.platform.errors import UserError
from eman.platform.store.claims import is_taken
from eman.platform.store.records import TRAINING, new_id
from eman.platform.store.store import Store
from eman.trainers.backbones.registry import PREFIX
from eman.trainers.data import catalog
from eman.trainers.spec.build import make_spec
from eman.trainers.spec.labels import record_params, record_tags, run_title
from eman.trainers.spec.run import RunSpec

#: Name of the profile that the store has for imported runs.
IMPORTED = "imported"

#: Pixels a side that networks see of data sets in files, as in the paper.
IMAGE_SIZE = 224


def import_network(
    path: Path, layout: str, store: Store, *, scheme: str = "default", dataset: str = "imagenet"
) -> Iterator[str]:
    """Make a finished run of a checkpoint, and yield lines for a person.

    Args:
        path: The file.
        layout: A name in :data:`~eman.evaluation.exchange.layouts.LAYOUTS`.
        store: Where the run goes.
        scheme: The scheme that it was trained with.
        dataset: The data set that it was trained on.

    Raises:
        UserError: A name is unknown, the file is not of this layout, or its images have other channels than the data
            set's. Nothing is written then.
    """
    foreign = read(path, layout)
    _check_dataset(path, foreign, dataset, store)
    source = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    fields = {
        "dataset": dataset,
        "image_size": catalog.size_of(dataset, IMAGE_SIZE),
        "backbone": foreign.backbone,
        "source": source,
    }
    spec = make_spec(LAYOUTS[layout].method, scheme, fields)
    _write(spec, foreign, store)
    title = f"{run_title(spec)} · imported"
    if not is_taken(store, TRAINING, spec.key):
        tags = {**record_tags(spec, IMPORTED), "eman.launch": new_id(), "eman.workers": "1"}
        log = store.begin(TRAINING, spec.key, title, params=record_params(spec), tags=tags)
        log.finish({}, {"eman.source": path.name})
    networks = "student and teacher" if foreign.teacher else "student"
    yield f"{title} ({spec.key}): {foreign.backbone}, images of {foreign.channels} channels, {networks}"
    yield f"{len(foreign.taken)} tensors taken, {len(foreign.left)} left"
    yield from (f"  {name} -> {place}" for name, place in foreign.taken.items())
    yield from (f"  {name} left" for name in foreign.left)


def _check_dataset(path: Path, foreign: ForeignNetworks, dataset: str, store: Store) -> None:
    """Refuse an unknown data set, or one whose images the network cannot take; raises :class:`UserError`."""
    catalog.check_dataset(dataset, store.workspace)
    sizes = catalog.KNOWN.get(dataset)
    if sizes is not None and sizes.channels != foreign.channels:
        raise UserError(
            f"{path} holds a network for images of {foreign.channels} channels, and those of {dataset} have "
            f"{sizes.channels}; give --dataset NAME, the data set that it was trained on."
        )


def _write(spec: RunSpec, foreign: ForeignNetworks, store: Store) -> None:
    student, teacher = (
        None if state is None else {PREFIX + name: value for name, value in state.items()}
        for state in (foreign.student, foreign.teacher)
    )
    content = {"spec": spec.flat(), "step": 0, "epoch": 0, "student": student, "teacher": teacher}
    for selection in ("last", "best"):
        checkpoint.save(store.workspace.run_folder(spec.key) / f"{selection}.pt", content, spec.key)
