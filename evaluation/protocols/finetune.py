"""Finetuning of the whole network on a fraction of the labels (Section 5.2)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols import labelled
from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import Protocol, Rate


class FinetuneSpec(LabelledSpec):
    """Fields of finetuning."""

    name: ClassVar[str] = "finetune"
    lr: Annotated[Rate, Field(description="Initial learning rate of the backbone.")] = 0.001
    head_lr: Annotated[Rate, Field(description="Initial learning rate of the new classifier.")] = 0.1  # 1.0 at 1 %
    weight_decay: Annotated[float, Field(ge=0, le=1, description="Coefficient of weight decay (L2).")] = 1e-4


PROTOCOL = Protocol(
    title="finetune",
    spec=FinetuneSpec,
    shown=("label_fraction", "lr"),
    grid="lr",
    compute="eman.evaluation.compute.finetune",
    images=labelled.images,
    check=labelled.check,
)
