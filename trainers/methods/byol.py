r"""BYOL (Section 4.1): the student predicts the teacher's projection of the other view.

.. math:: L = \sum_{(a,b)} 2 - 2 \frac{\langle q(z_a), z'_b \rangle}{\|q(z_a)\| \, \|z'_b\|}

where z is the student's projection, q its predictor and z' the teacher's projection; the sum takes both orders of the
two views. The teacher has no predictor, and its momentum rises to 1.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from eman.trainers.methods import momentum
from eman.trainers.methods.method import Method
from eman.trainers.spec.method import Batch, TeacherSection, UnlabelledSection, Width
from eman.trainers.spec.sections import OptimSpec, Share
from eman.trainers.views.options import ViewOptions


class BYOLSpec(UnlabelledSection, TeacherSection):
    """BYOL's fields, with the official code's values."""

    name: Literal["byol"] = "byol"
    batch: Annotated[Batch, Field(description="Unlabelled images per step, over all devices (Section 5).")] = 512
    momentum: Annotated[
        Share, Field(description="Momentum m of the teacher's parameters at the first step, Eq. (1).")
    ] = 0.98
    final_momentum: Annotated[
        Share, Field(description="Momentum m at the last step, to which it moves from the first along a cosine.")
    ] = 1.0
    hidden_dim: Annotated[Width, Field(description="Width of the hidden layers of projector and predictor.")] = 4096
    projection_dim: Annotated[Width, Field(description="Dimension of the outputs of projector and predictor.")] = 256
    blur_max: Annotated[
        float, Field(ge=0, le=32, description="Largest standard deviation of the Gaussian blur in pixels; 0: no blur.")
    ] = 2.0

    def view_options(self) -> ViewOptions:
        return replace(super().view_options(), blur_max=self.blur_max)


def _momentum(section: BYOLSpec, step: int, steps: int) -> float:
    return momentum.along_cosine(section.momentum, section.final_momentum, step, steps)


METHOD = Method(
    name="byol",
    title="BYOL",
    section=BYOLSpec,
    # Section 5: batch 512, lr 0.9, 50 epochs in Table 1. The README of the official code has lr 1.8, and nothing
    # there scales the rate by the batch.
    optim=OptimSpec(epochs=50, optimizer="lars", lr=1.8, weight_decay=1e-6),
    default_scheme="syncbn",
    views={"first": ("unlabelled", "byol_first"), "second": ("unlabelled", "byol_second")},
    student=(("first",), ("second",)),
    teacher=(("first",), ("second",)),
    momentum=_momentum,
    losses="eman.trainers.losses.byol",
    shown=(),
)
