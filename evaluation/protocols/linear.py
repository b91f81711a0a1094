"""Linear evaluation: a classifier on frozen features (Section 5.2)."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from eman.evaluation.protocols.labelled import LabelledSpec
from eman.evaluation.protocols.protocol import Protocol, Rate
from eman.platform.errors import UserError


class LinearSpec(LabelledSpec):
    """Fields of the linear evaluation."""

    name: ClassVar[str] = "linear"
    lr: Rate = 30.0
    """Initial learning rate of the classifier."""
    views: Literal["cached", "augmented"] = "augmented"
    """Inputs of the classifier: cached features of the original images, or those of random crops and flips (augmented),
    as in the official code."""

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        if self.views == "cached" and "crop_min" in self.model_fields_set:
            raise UserError("crop_min has no effect with views cached, which crops nothing; give views=augmented.")
        return self

    def flat(self) -> dict[str, object]:
        return {name: value for name, value in super().flat().items() if name != "crop_min" or self.views != "cached"}

    @classmethod
    def images(cls, specs: Sequence[Self], training_images: int) -> int:
        return specs[0].passes(training_images) if specs[0].views == "augmented" else 0  # rates share a pass


PROTOCOL = Protocol(
    title="linear",
    spec=LinearSpec,
    shown=("label_fraction", "views", "lr"),
    grid="lr",
    compute="eman.evaluation.compute.linear",
)
