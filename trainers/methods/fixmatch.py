r"""FixMatch (Section 4.1): the teacher's confident predictions on weak views are pseudo-labels for strong views.

.. math:: L = \mathrm{CE}(p_x, y) + \lambda \cdot \frac{1}{\mu B} \sum_i
          1[\max_k q_{ik} \ge \tau] \, \mathrm{CE}(p_{s,i}, \arg\max_k q_{ik})

where q is the teacher's softmax on weak views. The default scheme has no second network: all three views go through the
student in one pass and share its batch statistics, the "tricky mechanism" of Section 4.1.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from eman.trainers.methods.method import Method
from eman.trainers.spec.method import Batch, SemiSupervisedSection, TeacherSection
from eman.trainers.spec.sections import OptimSpec, Share
from eman.trainers.views.options import ViewOptions


class FixMatchSpec(SemiSupervisedSection, TeacherSection):
    """FixMatch's fields. Batches are those of Section 5, other defaults the official code's."""

    name: Literal["fixmatch"] = "fixmatch"
    batch: Annotated[Batch, Field(description="Unlabelled images per step, over all devices (Section 5).")] = 320
    labelled_batch: Annotated[Batch, Field(description="Labelled images per step, over all devices (Section 5).")] = 64
    threshold: Annotated[
        Share, Field(description="Confidence threshold tau: a teacher's prediction at or above it is a pseudo-label.")
    ] = 0.7
    unlabelled_weight: Annotated[
        float, Field(ge=0, le=1e6, description="Weight lambda of the loss on unlabelled images.")
    ] = 10.0
    strong_ops: Annotated[
        int, Field(ge=1, le=16, description="RandAugment operations applied to each image of the strong view.")
    ] = 2
    cutout: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Largest side of the gray square that Cutout draws on the strong view after RandAugment, as a "
            "fraction of the image's width (USB: 0.5); 0: no square.",
        ),
    ] = 0.0
    strong_pool: Annotated[
        Literal["imagenet", "cifar"],
        Field(
            description="Pool of RandAugment operations: the official code's 16 for ImageNet, or the 14 of FixMatch's "
            "paper for small images, which only weaken brightness, colour, contrast and sharpness."
        ),
    ] = "imagenet"

    def view_options(self) -> ViewOptions:
        return replace(
            super().view_options(), strong_ops=self.strong_ops, strong_pool=self.strong_pool, cutout=self.cutout
        )


METHOD = Method(
    name="fixmatch",
    title="FixMatch",
    section=FixMatchSpec,
    optim=OptimSpec(schedule="step", milestones=(0.6, 0.8)),
    default_scheme="default",
    views={"labelled": ("labelled", "weak"), "strong": ("unlabelled", "strong"), "weak": ("unlabelled", "weak")},
    student=(("labelled", "strong"),),
    teacher=(("weak",),),
    losses="eman.trainers.losses.fixmatch",
    shown=(),
    classifier=True,
)
