"""k-nearest-neighbour classification on frozen features (Section 5: k = 20)."""

from typing import Annotated, ClassVar

from pydantic import Field

from eman.evaluation.protocols.protocol import Protocol, ProtocolSpec
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError


class KnnSpec(ProtocolSpec):
    """Fields of kNN."""

    name: ClassVar[str] = "knn"
    k: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Number of nearest neighbours that vote."""
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] | None = None
    """Weight each vote by exp(cosine / temperature); none: equal weights, as in the paper."""

    def check(self, sizes: EvalSizes) -> None:
        if self.k > sizes.train:
            raise UserError(
                f"k is {self.k}, and there are {sizes.train} features to choose neighbours from; give a smaller k."
            )


PROTOCOL = Protocol(title="kNN", spec=KnnSpec, shown=("k", "temperature"), compute="eman.evaluation.compute.knn")
