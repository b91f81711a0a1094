r"""FixMatch (Section 4.1): the teacher's confident predictions on weak views label the student's strong views.

.. math:: L = \mathrm{CE}(p_x, y) + \lambda \cdot \frac{1}{\mu B} \sum_i
          1[\max_k q_{ik} \ge \tau] \, \mathrm{CE}(p_{s,i}, \arg\max_k q_{ik})

with q the teacher's softmax on weak views. In the default scheme there is no second network: all three views go
through the student in one pass and share its batch statistics, which is the "tricky mechanism" of Section 4.1.

Shapes: B labelled images, U unlabelled images, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.trainers.methods.criterion import Criterion
from eman.trainers.spec.run import RunSpec


class FixMatch(Criterion):
    """The loss. ``threshold`` is tau, ``unlabelled_weight`` lambda."""

    def __init__(self, spec: RunSpec, generator: torch.Generator) -> None:
        super().__init__()
        assert spec.threshold is not None and spec.unlabelled_weight is not None
        self.threshold, self.weight = spec.threshold, spec.unlabelled_weight

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            student: One tensor of logits ``(B + U, K)``: labelled weak views, then unlabelled strong views.
            teacher: One tensor of logits ``(U, K)``: unlabelled weak views.
            labels: ``"labelled"`` ``(B,)``, and ``"unlabelled"`` ``(U,)``, which is only measured, never trained on.
        """
        y_B = labels["labelled"]
        logits_BK, strong_UK = student[0].split([len(y_B), len(teacher[0])])
        confidence_U, pseudo_U = torch.softmax(teacher[0], 1).max(1)
        mask_U = (confidence_U >= self.threshold).float()
        supervised = F.cross_entropy(logits_BK, y_B)
        unlabelled = (mask_U * F.cross_entropy(strong_UK, pseudo_U, reduction="none")).mean()
        right_U = (pseudo_U == labels["unlabelled"]).float()
        return supervised + self.weight * unlabelled, {
            "loss_supervised": supervised.detach(),
            "loss_unlabelled": unlabelled.detach(),
            "mask_rate": mask_U.mean(),
            "pseudo_label_accuracy": right_U.mean(),
        }
