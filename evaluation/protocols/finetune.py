"""Finetuning of the whole network on a fraction of the labels (Section 5.2)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import Protocol, Rate
from eman.platform.errors import UserError


class FinetuneSpec(LabelledSpec):
    """Fields of finetuning."""

    name: ClassVar[str] = "finetune"
    lr: Rate = 0.001
    """Initial learning rate of the backbone."""
    head_lr: Rate = 0.1  # 1.0 at 1 %
    """Initial learning rate of the new classifier."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Coefficient of weight decay (L2)."""
    devices: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Devices over which a batch is spread; batch norm normalizes each device's share by itself. Official code: 8, with
    32 images each; 1 normalizes over the whole batch."""
    head_init: Literal["uniform", "normal"] = "uniform"
    """Initial weights of the new classifier: uniform within 1 / sqrt(features), PyTorch's default for weights and
    biases, as in the official code; or from N(0, 0.01) with biases 0, as in the linear evaluation."""

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.batch % self.devices:
            raise UserError(
                f"batch is {self.batch}, which {self.devices} devices do not divide; give a multiple of "
                f"{self.devices}, or another number of devices."
            )
        return self


PROTOCOL = Protocol(
    title="finetune",
    spec=FinetuneSpec,
    shown=("label_fraction", "lr"),
    grid="lr",
    compute="eman.evaluation.compute.finetune",
)
