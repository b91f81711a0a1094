"""Relative cost of trainings and evaluations, for scheduling and estimates."""

from collections.abc import Sequence

from eman.evaluation.protocols.spec import EvalSpec
from eman.trainers.data.known import KNOWN
from eman.trainers.methods.method import Passes
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec

#: Assumed number of images of a data set that is not in the catalog.
UNKNOWN_IMAGES = 100_000


def training_images(spec: RunSpec) -> int:
    """Return the number of training images of a run, labelled or not."""
    known = KNOWN.get(spec.data.dataset)
    total = UNKNOWN_IMAGES if known is None else known.train + known.unlabelled
    return spec.data.images or total - spec.data.held_out


def epoch_images(spec: RunSpec) -> int:
    """Return the approximate number of images per epoch; without unlabelled images, only the labelled ones count."""
    images = training_images(spec)
    if "unlabelled" not in spec.entry.streams and isinstance(spec.method, LabelledSection):
        return round(images * spec.method.labelled_fraction(images))
    return images


def steps(spec: RunSpec) -> int:
    """Return the approximate number of steps of a run."""
    return spec.optim.epochs * max(1, epoch_images(spec) // spec.method.images_per_step)


def work(spec: RunSpec) -> float:
    """Return the relative cost of a run: an image costs 3 in the student (forward, backward) and 1 in the teacher."""
    method, batches = spec.entry, spec.method.batches()

    def images(passes: Passes) -> int:
        return sum(batches[method.views[name][0]] for names in passes for name in names)

    student, teacher = method.student_passes(spec.method), method.teacher_passes(spec.method)
    return steps(spec) * (3.0 * images(student) + images(teacher))


def evaluation_work(group: Sequence[EvalSpec], run: RunSpec) -> float:
    """Return the relative cost of evaluations that run together, in the unit of `work`: images through the network, and
    1,000 for the rest.
    """
    return 1000.0 + evaluation_images(group, run)


def evaluation_images(group: Sequence[EvalSpec], run: RunSpec) -> int:
    """Return the number of images that pass through the network in evaluations that run together."""
    return group[0].protocol.images([spec.protocol for spec in group], training_images(run))
