r"""Mean Teacher, as a method: the student's class probabilities follow the teacher's on another view (Section 3.1).

.. math:: L = \mathrm{CE}(p_x, y) + \lambda \cdot \frac{1}{U K} \sum_{i,k} (p_{ik} - q_{ik})^2

Compare schemes: ``eman sweep grid --module mean_teacher.py --method mean-teacher --scheme bn,eman --profile smoke``.

Shapes: B labelled images, U unlabelled images, K classes.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from eman.api import Criterion, LabelledSection, Method, Parts, TeacherSection, UnlabelledSection, register_method


class MeanTeacherSpec(LabelledSection, UnlabelledSection, TeacherSection):
    """Mean Teacher's fields, beside those of every method with labels, unlabelled images and a teacher."""

    name: Literal["mean-teacher"] = "mean-teacher"
    unlabelled_weight: Annotated[float, Field(ge=0, le=1e6, description="Weight lambda of the consistency.")] = 10.0


class MeanTeacher(Criterion[MeanTeacherSpec]):
    """The loss."""

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, means over images.

        Args:
            student: One tensor of logits ``(B + U, K)``: labelled views, then unlabelled ones.
            teacher: One tensor of logits ``(U, K)``: other views of the same unlabelled images.
            labels: ``"labelled"``, ``(B,)``.
        """
        y_B = labels["labelled"]
        logits_BK, first_UK = student[0].split([len(y_B), len(teacher[0])])
        supervised = F.cross_entropy(logits_BK, y_B)
        consistency = F.mse_loss(torch.softmax(first_UK, 1), torch.softmax(teacher[0], 1))
        measures = {"loss_supervised": supervised.detach(), "loss_consistency": consistency.detach()}
        return supervised + self.spec.unlabelled_weight * consistency, measures


def classifier(spec: MeanTeacherSpec, features: int, classes: int) -> dict[str, nn.Module]:
    """Build the layers after the backbone."""
    return {"classifier": nn.Linear(features, classes)}


register_method(
    Method(
        name="mean-teacher",
        title="Mean Teacher",
        section=MeanTeacherSpec,
        default_scheme="bn",
        views={"labelled": ("labelled", "weak"), "first": ("unlabelled", "weak"), "second": ("unlabelled", "weak")},
        student=(("labelled", "first"),),  # one pass over two views, one after the other
        teacher=(("second",),),
        losses=Parts(heads=classifier, criterion=MeanTeacher),
        classifier=True,  # the student ends in logits, so its accuracy is measured
        profiles={"smoke": {"labelled_batch": 16, "batch": 64, "momentum": 0.95, "lr": 0.05}},  # beside the defaults
    )
)
