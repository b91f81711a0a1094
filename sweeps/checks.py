"""What can be checked before anything runs: data sets, and workers."""

from collections.abc import Iterable

from eman.evaluation.protocols.protocol import Sizes
from eman.evaluation.protocols.spec import EvalSpec, check
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.sweeps.work import training_images
from eman.trainers.data import catalog
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec

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
            bank = catalog.KNOWN[name].train if spec.dataset else training_images(run)
            check(spec, Sizes(name, bank))


def check_names(runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[EvalSpec] = ()) -> None:
    """Raise `UserError` unless every data set is built in, or a folder of images or shards."""
    others = {spec.dataset for spec in evaluations if spec.dataset is not None}
    for name in sorted({run.data.dataset for run in runs} | others):
        catalog.check_dataset(name, workspace)


def check_data(
    runs: Iterable[RunSpec], workspace: Workspace, evaluations: Iterable[tuple[EvalSpec, RunSpec]] = ()
) -> None:
    """Raise `UserError` unless the data sets of these runs, and of evaluations of runs, can be read here."""
    needed = {(run.data.dataset, run.data.image_size) for run in runs}
    for spec, run in evaluations:
        name = spec.dataset or run.data.dataset
        needed.add((name, catalog.size_of(name, run.data.image_size)))
    for name, size in sorted(needed, key=str):
        catalog.load(name, workspace, size)
