"""The labelled-only baseline ("Supervised" in Table 2): cross-entropy on weak views.

Shapes: B images, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers.methods.criterion import Criterion
from eman.trainers.spec.run import RunSpec


class Supervised(Criterion):
    """Cross-entropy. It ignores teachers: its scheme decides the student's norm alone."""

    def __init__(self, spec: RunSpec, generator: torch.Generator) -> None:
        super().__init__()

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of ``student[0]``, logits ``(B, K)``, against ``labels["labelled"]``, ``(B,)``."""
        return F.cross_entropy(student[0], labels["labelled"]), {}


def classifier(_spec: RunSpec, features: int, classes: int) -> dict[str, nn.Module]:
    """One linear layer after the backbone."""
    return {"classifier": nn.Linear(features, classes)}
