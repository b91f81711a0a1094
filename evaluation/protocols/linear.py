"""Linear evaluation: a classifier on frozen features (Section 5.2)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from eman.evaluation.protocols import labelled
from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import Protocol, Rate
from eman.platform.errors import UserError


class LinearSpec(LabelledSpec):
    """Fields of the linear evaluation."""

    name: ClassVar[str] = "linear"
    lr: Annotated[Rate, Field(description="Initial learning rate of the classifier.")] = 30.0
    views: Annotated[
        Literal["cached", "augmented"],
        Field(
            description="Inputs of the classifier: cached features of the original images, or those of random crops "
            "and flips (augmented), as in the official code."
        ),
    ] = "augmented"

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        if self.views == "cached" and "crop_min" in self.model_fields_set:
            raise UserError("crop_min has no effect with views cached, which crops nothing; give views=augmented.")
        return self

    def flat(self) -> dict[str, object]:
        """Return the fields that can change the result; cached features do not depend on ``crop_min``."""
        fields = super().flat()
        if self.views == "cached":
            del fields["crop_min"]
        return fields


PROTOCOL = Protocol(
    title="linear",
    spec=LinearSpec,
    shown=("label_fraction", "views", "lr"),
    grid="lr",
    compute="eman.evaluation.compute.linear",
    images=lambda specs, images: specs[0].passes(images) if specs[0].views == "augmented" else 0,  # rates share a pass
    check=labelled.check,
)
