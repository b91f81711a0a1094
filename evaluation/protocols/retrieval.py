"""Image retrieval on frozen features: test images search the training images (Section 5.2, Table 4)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols.protocol import Protocol, ProtocolSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError


class RetrievalSpec(ProtocolSpec):
    """Fields of retrieval."""

    name: ClassVar[str] = "retrieval"
    top: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Number of database images to rank per query, T."""

    def check(self, sizes: EvalSizes) -> None:
        if self.top > sizes.train:
            raise UserError(
                f"top is {self.top}, and the database has {sizes.train} images; give at most {sizes.train}."
            )


PROTOCOL = Protocol(title="retrieval", spec=RetrievalSpec, shown=("top",), compute="eman.evaluation.compute.retrieval")
