r"""Two self-supervised methods: DINO, with a teacher whose outputs are centred, and SimSiam, without a teacher.

.. math::
    L_\mathrm{DINO} = -\frac{1}{2} \sum_{(a,b)} \mathrm{softmax}((g'_a - c) / T') \cdot \log \mathrm{softmax}(g_b / T)

.. math:: L_\mathrm{SimSiam} = -\frac{1}{2} \sum_{(a,b)} \cos(q(z_a), \mathrm{stopgrad}(z_b))

where g and g' are the outputs of student and teacher for a view, c a running mean of the teacher's (arXiv 2104.14294),
z a projection and q its prediction (arXiv 2011.10566). Sums are over both orders of two views.

Shapes: N images on this worker, G images of all workers, C outputs.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from eman.api import Criterion, Method, Parts, TeacherSection, UnlabelledSection, gather_rows, register_method

Width = Annotated[int, Field(ge=1, le=65_536)]
Temperature = Annotated[float, Field(gt=0, le=10)]
SMOKE = {"batch": 64, "outputs": 32, "lr": 0.05}
VIEWS = {"first": ("unlabelled", "byol_first"), "second": ("unlabelled", "byol_second")}


class DINOSpec(UnlabelledSection, TeacherSection):
    """DINO's fields."""

    name: Literal["dino"] = "dino"
    outputs: Annotated[Width, Field(description="Outputs C of the head.")] = 256
    student_temperature: Annotated[Temperature, Field(description="Temperature T of the student.")] = 0.1
    teacher_temperature: Annotated[Temperature, Field(description="Temperature T' of the teacher.")] = 0.04
    centre_momentum: Annotated[float, Field(ge=0, le=1, description="Momentum of the centre c.")] = 0.9


class DINO(Criterion[DINOSpec]):
    """DINO's loss. The centre is a buffer, and changes only after a step, so that parts of a batch agree."""

    centre_C: Tensor

    def __init__(self, spec: DINOSpec, devices: int, generator: torch.Generator) -> None:
        super().__init__(spec, devices, generator)
        self.devices = devices
        self.register_buffer("centre_C", torch.zeros(spec.outputs))

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the entropy of the teacher's outputs in nats, from lists of two ``(N, C)``."""
        target_2NC = [torch.softmax((g_NC - self.centre_C) / self.spec.teacher_temperature, 1) for g_NC in teacher]
        logs_2NC = [torch.log_softmax(g_NC / self.spec.student_temperature, 1) for g_NC in student]
        pairs = zip(target_2NC, reversed(logs_2NC), strict=True)
        loss = torch.stack([-(target_NC * log_NC).sum(1).mean() for target_NC, log_NC in pairs]).mean()
        entropy = -(target_2NC[0] * target_2NC[0].clamp_min(1e-12).log()).sum(1).mean()
        return loss, {"teacher_entropy": entropy}

    @torch.no_grad()
    def after_step(self, teacher: list[Tensor]) -> None:
        """Move the centre towards the mean of the teacher's outputs on all workers."""
        output_GC = torch.cat([gather_rows(g_NC, self.devices) for g_NC in teacher])
        self.centre_C.lerp_(output_GC.mean(0), 1 - self.spec.centre_momentum)


class SimSiamSpec(UnlabelledSection):
    """SimSiam's fields."""

    name: Literal["simsiam"] = "simsiam"
    outputs: Annotated[Width, Field(description="Width C of projector and predictor.")] = 256


class SimSiam(Criterion[SimSiamSpec]):
    """SimSiam's loss."""

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, from a list of two ``(N, 2 C)``: predictions and projections side by side."""
        (first_NC, z1_NC), (second_NC, z2_NC) = (output.chunk(2, 1) for output in student)
        similar = (F.cosine_similarity(first_NC, z2_NC.detach()), F.cosine_similarity(second_NC, z1_NC.detach()))
        return -torch.stack(similar).mean(), {}


class PredictionAndProjection(nn.Module):
    """Return q(z) and z side by side, ``(N, 2 C)``, so that a loss gets both from one pass."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.projector = mlp(features, outputs, outputs)
        self.predictor = mlp(outputs, max(outputs // 4, 1), outputs)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return ``(N, 2 C)`` from features ``(N, D)``."""
        z_NC = self.projector(x_ND)
        return torch.cat([self.predictor(z_NC), z_NC], 1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Build two linear layers with a batch norm, which the scheme replaces by its own norm."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


register_method(
    Method(
        name="dino",
        title="DINO",
        section=DINOSpec,
        default_scheme="syncbn",
        views=VIEWS,
        student=(("first",), ("second",)),  # two passes each, so that the views do not share batch statistics
        teacher=(("first",), ("second",)),
        losses=Parts(
            heads=lambda spec, features, classes: {"head": mlp(features, spec.outputs, spec.outputs)}, criterion=DINO
        ),
        profiles={"smoke": {**SMOKE, "momentum": 0.95}},
    )
)
register_method(
    Method(
        name="simsiam",
        title="SimSiam",
        section=SimSiamSpec,
        default_scheme="bn",
        views=VIEWS,
        student=(("first",), ("second",)),
        teacher=(),
        losses=Parts(
            heads=lambda spec, features, classes: {"head": PredictionAndProjection(features, spec.outputs)},
            criterion=SimSiam,
        ),
        profiles={"smoke": SMOKE},
    )
)
