"""Finetuning of the whole network on a fraction of the labels (Section 5.2)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import Protocol, Rate


class FinetuneSpec(LabelledSpec):
    """Fields of finetuning."""

    name: ClassVar[str] = "finetune"
    lr: Rate = 0.001
    """Initial learning rate of the backbone."""
    head_lr: Rate = 0.1  # 1.0 at 1 %
    """Initial learning rate of the new classifier."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Coefficient of weight decay (L2)."""


PROTOCOL = Protocol(
    title="finetune",
    spec=FinetuneSpec,
    shown=("label_fraction", "lr"),
    grid="lr",
    compute="eman.evaluation.compute.finetune",
)
