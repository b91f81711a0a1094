"""Low-shot classification on frozen features: linear SVMs on k images per class (Section 5.2, Table 5)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols.protocol import Protocol, ProtocolSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError


class LowShotSpec(ProtocolSpec):
    """Fields of low-shot classification."""

    name: ClassVar[str] = "lowshot"
    shots: Annotated[int, Field(ge=1, le=100_000, description="Labelled images per class, k.")] = 1
    label_sets: Annotated[
        int, Field(ge=1, le=1000, description="Number of label sets over which results are averaged.")
    ] = 5


def check(spec: LowShotSpec, sizes: EvalSizes) -> None:
    """Raise :class:`UserError` if ``shots`` exceeds the size of the smallest class."""
    if sizes.smallest_class is not None and spec.shots > sizes.smallest_class:
        raise UserError(
            f"shots is {spec.shots}, and the smallest class of {sizes.dataset} has {sizes.smallest_class} images; give "
            f"at most {sizes.smallest_class}."
        )


PROTOCOL = Protocol(
    title="low-shot",
    spec=LowShotSpec,
    shown=("shots",),
    multi_label=True,
    compute="eman.evaluation.compute.lowshot",
    check=check,
)
