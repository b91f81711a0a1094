"""The declaration of a protocol, and the outcome of an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Self, TypeVar, cast

from pydantic import Field

from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import RunFailed
from eman.trainers.spec.section import Section

if TYPE_CHECKING:
    from eman.evaluation.trained import Trained

#: Types that several protocols share.
Rate = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Milestone = Annotated[float, Field(gt=0, lt=1)]
LabelSets = Annotated[int, Field(ge=1, le=1000)]


class ProtocolSpec(Section):
    """Base class of a protocol's fields; defaults are the paper's values."""

    name: ClassVar[str]

    def flat(self) -> dict[str, object]:
        """Return the fields that can change the result as plain values, except those that are ``None``."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}

    @classmethod
    def images(cls, specs: Sequence[Self], training_images: int) -> int:
        """Return the number of images that pass through the network in specifications that are computed together,
        besides the pass for features that all protocols share.
        """
        return 0

    def check(self, sizes: EvalSizes) -> None:
        """Raise :class:`UserError` if the data set is too small."""


S = TypeVar("S", bound=ProtocolSpec)


@dataclass(frozen=True)
class Measured:
    """The metrics of one evaluation, the test result first; ``held_out`` names the one used for selection, if any."""

    metrics: Mapping[str, float]
    held_out: str = ""

    @property
    def headline(self) -> tuple[str, float] | None:
        """Name and value of the held-out metric, the only one to show or select by before a table is printed."""
        return (self.held_out, self.metrics[self.held_out]) if self.held_out else None


#: The outcome of one evaluation: its metrics, or the reason why it failed.
EvalOutcome = Measured | RunFailed


@dataclass(frozen=True, kw_only=True)
class Protocol(Generic[S]):
    """A way to evaluate a run.

    Attributes:
        title: Display name.
        spec: Class of its fields.
        shown: Fields to show in the title of an evaluation.
        grid: Field that is searched, if any; evaluations that differ only in it are computed together.
        multi_label: Whether it supports images with several classes.
        compute: ``evaluate(specs, trained, seed)``, which takes specifications that differ only in ``grid`` and returns
            an :data:`EvalOutcome` for each; or the module that has it, imported when an evaluation runs.
        version: Part of its evaluations' keys, unless it is 1: raise it when a change of code changes results.
    """

    title: str
    spec: type[S]
    shown: tuple[str, ...]
    grid: str = ""
    multi_label: bool = False
    compute: str | Callable[[Sequence[S], "Trained", int], list[EvalOutcome]]
    version: int = 1

    @property
    def name(self) -> str:
        return self.spec.name

    def evaluate(self, specs: Sequence[S], trained: "Trained", seed: int) -> list[EvalOutcome]:
        """Compute the outcome of each specification.

        Raises:
            UserError: The run cannot be evaluated with this protocol.
            RunFailed: The run has collapsed.
        """
        evaluate = import_module(self.compute).evaluate if isinstance(self.compute, str) else self.compute
        return cast("list[EvalOutcome]", evaluate(specs, trained, seed))
