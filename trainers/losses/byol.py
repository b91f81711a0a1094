"""BYOL's loss and heads; see :mod:`eman.trainers.methods.byol` for the equation.

Shapes: N images, C projection dimension.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from eman.trainers.losses.criterion import Criterion, Parts
from eman.trainers.methods.byol import BYOLSpec


class BYOL(Criterion[BYOLSpec]):
    """The symmetric regression loss of BYOL."""

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and no other measures.

        Args:
            student: Predictions of views 1 and 2, each ``(N, C)``.
            teacher: Projections of views 1 and 2, each ``(N, C)``.
            labels: Not used.
        """
        first = F.cosine_similarity(student[0], teacher[1]).mean()
        second = F.cosine_similarity(student[1], teacher[0]).mean()
        return 4 - 2 * (first + second), {}


def projector_and_predictor(spec: BYOLSpec, features: int, _classes: int) -> dict[str, nn.Module]:
    """Build BYOL's heads, with a batch norm in each. The predictor is last, since the teacher has none."""
    heads = {
        "projector": _head(features, spec.hidden_dim, spec.projection_dim),
        "predictor": _head(spec.projection_dim, spec.hidden_dim, spec.projection_dim),
    }
    for module in heads["projector"].modules():  # initial weights of the official code
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in heads["predictor"].modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
    return heads


def _head(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


def without_predictor(student: nn.Sequential) -> nn.Sequential:
    """Return the part that BYOL's teacher copies: backbone and projector."""
    return student[:-1]


PARTS = Parts(heads=projector_and_predictor, criterion=BYOL, followed=without_predictor)
