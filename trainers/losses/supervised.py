"""The supervised baseline's loss, and the classifier; see :mod:`eman.trainers.methods.supervised`.

Shapes: B images, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers.losses.criterion import Criterion, Parts
from eman.trainers.spec.method import LabelledSection


class Supervised(Criterion[LabelledSection]):
    """Cross-entropy on the labelled images."""

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of logits ``student[0]``, ``(B, K)``, for classes ``labels["labelled"]``, ``(B,)``."""
        return F.cross_entropy(student[0], labels["labelled"]), {}


def classifier(_spec: LabelledSection, features: int, classes: int) -> dict[str, nn.Module]:
    """Build the linear classifier."""
    return {"classifier": nn.Linear(features, classes)}


PARTS = Parts(heads=classifier, criterion=Supervised)
