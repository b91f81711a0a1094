"""Checks of data sets, index files and workers before anything runs."""

from collections.abc import Iterable

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.evaluation.protocols.spec import EvalSpec, check
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog
from eman.trainers.data.index_files import read_index
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import DataSpec

#: Evaluations with the trainings that they evaluate.
Pairs = Iterable[tuple[EvalSpec, RunSpec]]

#: A number of workers, a range, or `auto`.
Workers = int | tuple[int, int] | str | None


def check_workers(workers: Workers, devices: int) -> None:
    """Raise `UserError` unless every possible number of workers divides the devices."""
    if workers is None or isinstance(workers, str):
        return
    low, high = workers if isinstance(workers, tuple) else (workers, workers)
    if low < 1 or low > high or high > devices or any(devices % number for number in range(low, high + 1)):
        given = str(low) if low == high else f"{low}-{high}"
        raise UserError(
            f"--workers {given} does not divide the run's {devices} devices; every number of workers must be a divisor "
            f"of {devices}."
        )


def check_sizes(evaluations: Pairs) -> None:
    """Raise `UserError` unless evaluations fit their data sets, as far as the catalog knows their sizes."""
    for spec, run in evaluations:
        name = spec.dataset or run.data.dataset
        if name in catalog.KNOWN:
            sizes = catalog.KNOWN[name]
            images = None if spec.dataset else run.data.images
            check(spec, EvalSizes(name, images or sizes.train - run.data.held_out, sizes.classes))


def check_names(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[EvalSpec] = ()) -> None:
    """Raise `UserError` unless every data set is built in or a folder of images or shards."""
    for name in sorted(_datasets(runs) | {spec.dataset for spec in evaluations if spec.dataset is not None}):
        catalog.check_dataset(name, workspace)


def check_present(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = ()) -> None:
    """Raise `UserError` unless every data set exists or can be downloaded, without reading images."""
    for name in sorted(_datasets(runs) | {spec.dataset or run.data.dataset for spec, run in evaluations}):
        catalog.check_present(name, workspace)


def check_index_files(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = ()) -> None:
    """Raise `UserError` unless every index file can be read. Files of data sets to be downloaded are skipped."""
    wanted = {
        *((run.data.dataset, run.method.label_index) for run in runs if isinstance(run.method, LabelledSection)),
        *(
            (spec.dataset or run.data.dataset, spec.protocol.label_index)
            for spec, run in evaluations
            if isinstance(spec.protocol, LabelledSpec)
        ),
    }
    for dataset, files in sorted((dataset, files) for dataset, files in wanted if files is not None):
        if dataset not in catalog.STORED or catalog.place_of(dataset, workspace).exists():
            for file in files.split(","):
                read_index(dataset, file, workspace)


def _datasets(runs: Iterable[RunSpec]) -> set[str]:
    return {run.data.dataset for run in runs}


def check_data(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Pairs = ()) -> None:
    """Raise `UserError` unless the data sets can be read on this machine and fit the evaluations."""
    runs, evaluations = tuple(runs), tuple(evaluations)
    check_present(runs, workspace, evaluations)
    check_index_files(runs, workspace, evaluations)
    from eman.evaluation.trained import sizes_of, splits_of

    needed = {(run.data.dataset, run.data.image_size) for run in runs}
    for name, size in sorted(needed, key=str):
        catalog.load(name, workspace, size)
    known: dict[tuple[DataSpec, str | None], EvalSizes] = {}
    for spec, run in evaluations:
        source = run.data, spec.dataset
        if source not in known:
            known[source] = sizes_of(splits_of(run, spec.dataset, workspace))
        check(spec, known[source])
