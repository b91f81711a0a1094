"""FixMatch's loss; see :mod:`eman.trainers.methods.fixmatch` for the equation.

Shapes: B labelled images, U unlabelled images, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.trainers.losses.criterion import Criterion, Parts
from eman.trainers.losses.supervised import classifier
from eman.trainers.methods.fixmatch import FixMatchSpec


class FixMatch(Criterion[FixMatchSpec]):
    """The loss of FixMatch, with tau = ``spec.threshold`` and lambda = ``spec.unlabelled_weight``."""

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and its parts, the share of pseudo-labels used, and their accuracy in [0, 1].

        Args:
            student: One tensor of logits ``(B + U, K)``: labelled weak views, then unlabelled strong views.
            teacher: One tensor of logits ``(U, K)``: unlabelled weak views.
            labels: ``"labelled"``, ``(B,)``, and ``"unlabelled"``, ``(U,)``, which only measures the pseudo-labels.
        """
        y_B = labels["labelled"]
        logits_BK, strong_UK = student[0].split([len(y_B), len(teacher[0])])
        confidence_U, pseudo_U = torch.softmax(teacher[0], 1).max(1)
        mask_U = (confidence_U >= self.spec.threshold).float()
        supervised = F.cross_entropy(logits_BK, y_B)
        unlabelled = (mask_U * F.cross_entropy(strong_UK, pseudo_U, reduction="none")).mean()
        right_U = (pseudo_U == labels["unlabelled"]).float()
        return supervised + self.spec.unlabelled_weight * unlabelled, {
            "loss_supervised": supervised.detach(),
            "loss_unlabelled": unlabelled.detach(),
            "mask_rate": mask_U.mean(),
            "pseudo_label_accuracy": right_U.mean(),
        }


PARTS = Parts(heads=classifier, criterion=FixMatch)
