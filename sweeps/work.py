"""The relative cost of trainings and evaluations, for scheduling and for estimates."""

from collections.abc import Sequence

from eman.evaluation.protocols.registry import protocol_named
from eman.trainers.data import catalog
from eman.trainers.methods.registry import method_named
from eman.trainers.spec.run import EvalSpec, RunSpec

#: Assumed size of a data set that is not in the catalog.
UNKNOWN_IMAGES = 100_000


def training_images(spec: RunSpec) -> int:
    """Return the number of images that a run trains on, labelled or not."""
    return spec.images or catalog.TRAINING_IMAGES.get(spec.dataset, UNKNOWN_IMAGES) - spec.held_out


def _batches(spec: RunSpec) -> dict[str, int]:
    """Return the images of a step by stream."""
    return {"unlabelled": spec.batch, "labelled": spec.labelled_batch or 0}


def steps(spec: RunSpec) -> int:
    """Return the approximate number of steps of a run."""
    stream = "unlabelled" if "unlabelled" in method_named(spec.method).streams else "labelled"
    images = training_images(spec)
    if stream == "labelled":
        images = round(images * (spec.label_fraction or 1))
    return spec.epochs * max(1, images // _batches(spec)[stream])


def work(spec: RunSpec) -> float:
    """Return the relative cost of a run. An image costs three through the student (forward, backward), one through the
    teacher.
    """
    method, batches = method_named(spec.method), _batches(spec)

    def images(passes: tuple[tuple[str, ...], ...]) -> int:
        return sum(batches[method.views[name][0]] for names in passes for name in names)

    return steps(spec) * (3.0 * images(method.student) + images(method.teacher))


def evaluation_work(group: Sequence[EvalSpec], run: RunSpec) -> float:
    """Return the relative cost of evaluations that run together, in the same unit as `work`: the images through the
    network, and a thousand for the rest.
    """
    return 1000.0 + protocol_named(group[0].protocol).images(group, training_images(run))
