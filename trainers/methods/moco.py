r"""MoCo v2 (Section 4.1): tell a query's key from a queue of older keys.

.. math:: L = -\log \frac{\exp(q \cdot k_+ / T)}{\exp(q \cdot k_+ / T) + \sum_{j=1}^{K} \exp(q \cdot k_j / T)}

where q is the student's query of one view, k_+ the teacher's key of the other, and k_j are the K keys of the queue, all
of length 1. The teacher is updated between the two forward passes. The symmetric loss is the sum of L and of L with the
views exchanged; the keys of both views enter the queue after both.
"""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from eman.platform.errors import UserError
from eman.trainers.methods.method import Method
from eman.trainers.spec.method import TeacherSection, UnlabelledSection, Width
from eman.trainers.views.options import ViewOptions


class MoCoSpec(UnlabelledSection, TeacherSection):
    """MoCo's fields, with the values of the official README."""

    name: Literal["moco"] = "moco"
    queue: Annotated[
        int,
        Field(ge=1, le=2**24, description="Length K of the queue of keys; a multiple of the keys that a step adds."),
    ] = 65536
    symmetric: Annotated[
        bool,
        Field(
            description="Make each view a query and a key: the loss is the sum of both directions, and a step adds two "
            "keys per image (the MoCo demo's option, lightly)."
        ),
    ] = False
    temperature: Annotated[float, Field(ge=1e-4, le=1e4, description="Temperature T of the InfoNCE loss.")] = 0.2
    linear_projector: Annotated[
        bool, Field(description="Make the projector one linear layer, without a hidden one (the MoCo demo).")
    ] = False
    hidden_dim: Annotated[Width, Field(description="Width of the projector's hidden layer.")] = 2048
    projection_dim: Annotated[Width, Field(description="Dimension of the projector's output: queries and keys.")] = 128
    blur_max: Annotated[
        float, Field(ge=0, le=32, description="Largest standard deviation of the Gaussian blur in pixels; 0: no blur.")
    ] = 2.0

    @model_validator(mode="after")
    def _check_projector(self) -> Self:
        if self.linear_projector:
            self.drop("hidden_dim")
        return self

    @model_validator(mode="after")
    def _check_queue(self) -> Self:
        keys, added = (2 * self.batch, "twice the batch") if self.symmetric else (self.batch, "the batch")
        if self.queue % keys:
            raise UserError(
                f"queue is {self.queue}, which {added} of {self.batch} does not divide; give a multiple of {keys}."
            )
        return self

    def view_options(self) -> ViewOptions:
        return replace(super().view_options(), blur_max=self.blur_max)


METHOD = Method(
    name="moco",
    title="MoCo",
    section=MoCoSpec,
    default_scheme="shufflebn",
    views={"query": ("unlabelled", "moco"), "key": ("unlabelled", "moco")},
    student=(("query",),),
    teacher=(("key",),),
    symmetric=lambda section: section.symmetric,
    teacher_moves="between",
    losses="eman.trainers.losses.moco",
    shown=(),
)
