"""Low-shot classification on frozen features: linear SVMs on k images per class (Section 5.2, Table 5)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols.protocol import LabelSets, Protocol, ProtocolSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError


class LowShotSpec(ProtocolSpec):
    """Fields of low-shot classification."""

    name: ClassVar[str] = "lowshot"
    shots: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Labelled images per class, k."""
    label_sets: LabelSets = 5
    """Number of label sets over which results are averaged."""

    def check(self, sizes: EvalSizes) -> None:
        if sizes.smallest_class is not None and self.shots > sizes.smallest_class:
            raise UserError(
                f"shots is {self.shots}, and the smallest class of {sizes.dataset} has {sizes.smallest_class} images; "
                f"give at most {sizes.smallest_class}."
            )


PROTOCOL = Protocol(
    title="low-shot",
    spec=LowShotSpec,
    shown=("shots",),
    multi_label=True,
    compute="eman.evaluation.compute.lowshot",
)
