r"""The supervised baseline (Table 2): cross-entropy on weak views of the labelled images, without a teacher.

.. math:: L = \mathrm{CE}(p_x, y)
"""

from typing import Literal

from eman.trainers.methods.method import Method
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.sections import OptimSpec


class SupervisedSpec(LabelledSection):
    """The baseline's fields: those of every method with labels."""

    name: Literal["supervised"] = "supervised"


METHOD = Method(
    name="supervised",
    title="Supervised",
    section=SupervisedSpec,
    optim=OptimSpec(schedule="step", milestones=(0.6, 0.8)),
    default_scheme="default",
    views={"labelled": ("labelled", "weak")},
    student=(("labelled",),),
    teacher=(),
    losses="eman.trainers.losses.supervised",
    shown=(),
    classifier=True,
)
