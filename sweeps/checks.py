"""What can be checked before anything runs: data sets, and workers."""

from collections.abc import Iterable

from eman.evaluation.protocols.sizes import EvalSizes
from eman.evaluation.protocols.spec import EvalSpec, check
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import DataSpec

#: A number of workers, the fewest and the most, or `auto`.
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


def check_sizes(runs: Iterable[RunSpec], evaluations: Iterable[tuple[EvalSpec, RunSpec]] = ()) -> None:
    """Raise `UserError` unless runs and evaluations fit their data sets, as far as the catalog knows their sizes."""
    for run in runs:
        labels = run.method if isinstance(run.method, LabelledSection) else None
        catalog.check_fits(
            run.data.dataset,
            images=run.data.images,
            held_out=run.data.held_out,
            label_fraction=None if labels is None else labels.label_fraction,
            label_set=None if labels is None else labels.label_set,
            image_size=run.data.image_size,
        )
    for spec, run in evaluations:
        name = spec.dataset or run.data.dataset
        if name in catalog.KNOWN:
            sizes = catalog.KNOWN[name]
            images = None if spec.dataset else run.data.images
            check(spec, EvalSizes(name, images or sizes.train - run.data.held_out, sizes.classes))


def check_names(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[EvalSpec] = ()) -> None:
    """Raise `UserError` unless every data set is built in, or a folder of images or shards."""
    others = {spec.dataset for spec in evaluations if spec.dataset is not None}
    for name in sorted({run.data.dataset for run in runs} | others):
        catalog.check_dataset(name, workspace)


def check_data(
    runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[tuple[EvalSpec, RunSpec]] = ()
) -> None:
    """Raise `UserError` unless the data sets of these runs can be read here, and serve these evaluations of runs."""
    from eman.evaluation.trained import sizes_of, splits_of

    needed = {(run.data.dataset, run.data.image_size) for run in runs}
    for name, size in sorted(needed, key=str):
        catalog.load(name, workspace, size)
    known: dict[tuple[DataSpec, str | None], EvalSizes] = {}
    for spec, run in evaluations:
        place = run.data, spec.dataset
        if place not in known:
            known[place] = sizes_of(splits_of(run, spec.dataset, workspace))
        check(spec, known[place])
