"""Checks of data sets, index files and workers before anything runs."""

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.evaluation.protocols.spec import EvalSpec, check
from eman.platform.errors import UserError
from eman.platform.store.records import new_id
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog
from eman.trainers.data.catalog import read_index
from eman.trainers.data.known import KNOWN, STORED
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import DataSpec

#: Evaluations with the trainings that they evaluate.
Pairs = Iterable[tuple[EvalSpec, RunSpec]]

#: A number of workers, a range, or `auto`.
Workers = int | tuple[int, int] | str | None


def check_workers(workers: Workers, runs: Iterable[RunSpec], *, scheduler: str = "none") -> None:
    """Raise `UserError` unless every possible number of workers divides the devices of every run.

    With a scheduler a run has one worker: Ray Tune cannot stop a training that Ray Train carries out on several.
    """
    if scheduler != "none" and workers not in (None, 1):
        raise UserError(f"--scheduler {scheduler} stops trainings on one worker only; give --workers 1.")
    if workers is None or isinstance(workers, str):
        return
    low, high = workers if isinstance(workers, tuple) else (workers, workers)
    for devices in {run.norm.devices for run in runs}:
        if low < 1 or low > high or high > devices or any(devices % number for number in range(low, high + 1)):
            given = str(low) if low == high else f"{low}-{high}"
            raise UserError(
                f"--workers {given} does not divide the run's {devices} devices; every number of workers must be a "
                f"divisor of {devices}."
            )


def check_search(search: str) -> None:
    """Raise `UserError` if a search needs Optuna and it is not installed."""
    if search == "optuna" and find_spec("optuna") is None:
        raise UserError(
            "--search optuna needs the package optuna, which is not installed; run `pip install optuna`, or give "
            "--search random."
        )


def check_sizes(evaluations: Pairs) -> None:
    """Raise `UserError` unless evaluations fit their data sets, as far as the catalog knows their sizes."""
    for spec, run in evaluations:
        name = spec.dataset or run.data.dataset
        if name in KNOWN:
            sizes = KNOWN[name]
            images = None if spec.dataset else run.data.images
            check(spec, EvalSizes(name, images or sizes.train - run.data.held_out, sizes.classes))


def datasets_of(runs: Iterable[RunSpec], evaluations: Pairs = ()) -> list[str]:
    """Return the data sets of trainings and evaluations, sorted."""
    used = {run.data.dataset for run in runs}
    return sorted(used | {spec.dataset or run.data.dataset for spec, run in evaluations})


def check_files(
    runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = (), *, present: bool = False
) -> None:
    """Check data sets and index files without reading images; `present`: those that are never downloaded must exist.

    Raises:
        UserError: A data set is neither built in nor a folder of images or shards, or an index file cannot be read.
    """
    runs, evaluations = tuple(runs), tuple(evaluations)
    for name in datasets_of(runs, evaluations):
        (catalog.check_present if present else catalog.check_dataset)(name, workspace)
    fields: list[tuple[str, object]] = [(run.data.dataset, run.method) for run in runs]
    fields += [(spec.dataset or run.data.dataset, spec.protocol) for spec, run in evaluations]
    files = {(name, part.label_index) for name, part in fields if isinstance(part, LabelledSection | LabelledSpec)}
    for name, listed in sorted((name, listed) for name, listed in files if listed is not None):
        if name not in STORED or catalog.place_of(name, workspace).exists():
            for file in listed.split(","):
                read_index(name, file, workspace)


def check_shared(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = ()) -> list[str]:
    """Check the data sets that a cluster reads from object storage; return the others, which only it can check.

    Raises:
        UserError: See :func:`check_files`.
    """
    runs, evaluations = tuple(runs), tuple(evaluations)

    def is_shared(name: str) -> bool:
        return not catalog.is_in_memory(name) and catalog.place_of(name, workspace).local is None

    shared = [run for run in runs if is_shared(run.data.dataset)]
    pairs = [(spec, run) for spec, run in evaluations if is_shared(spec.dataset or run.data.dataset)]
    check_files(shared, workspace, pairs, present=True)
    return [name for name in datasets_of(runs, evaluations) if not is_shared(name)]


def check_storage(workspace: Workspace) -> None:
    """Raise `UserError` unless a work folder in object storage can be written, without waiting for it."""
    if workspace.remote:
        probe = replace(workspace.storage, patience=0.0) / f"probe-{new_id()}"
        probe.write(b"")
        probe.remove()


def check_data(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = ()) -> None:
    """Raise `UserError` unless the data sets can be read on this machine and fit the evaluations."""
    runs, evaluations = tuple(runs), tuple(evaluations)
    check_files(runs, workspace, evaluations, present=True)
    from eman.evaluation.trained import sizes_of, splits_of

    for name, size in sorted({(run.data.dataset, run.data.image_size) for run in runs}, key=str):
        catalog.load(name, workspace, size)
    known: dict[tuple[DataSpec, str | None], EvalSizes] = {}
    for spec, run in evaluations:
        source = run.data, spec.dataset
        if source not in known:
            known[source] = sizes_of(splits_of(run, spec.dataset, workspace))
        check(spec, known[source])
