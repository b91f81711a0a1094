"""What a protocol declares, and what evaluating by it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeVar

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


class ProtocolSpec(Section):
    """The fields of one protocol; their defaults are the paper's values. Each protocol derives a class from it."""

    name: ClassVar[str]

    def flat(self) -> dict[str, object]:
        """Return the fields that decide the result, as plain values; those that are ``None`` do not count."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}


S = TypeVar("S", bound=ProtocolSpec)


@dataclass(frozen=True)
class Measured:
    """The metrics of one evaluation.

    Attributes:
        metrics: Values by name; accuracies in percent. The first is the test result.
        held_out: Name of the metric that was measured on the held-out images, by which choices are made; empty where
            the protocol has none.
    """

    metrics: Mapping[str, float]
    held_out: str = ""

    @property
    def headline(self) -> tuple[str, float] | None:
        """Name and value of the held-out metric: all that may be shown, or chosen by, before the table is printed."""
        return (self.held_out, self.metrics[self.held_out]) if self.held_out else None


#: The outcome of one evaluation: its metrics, or why it has none.
EvalOutcome = Measured | RunFailed


@dataclass(frozen=True, kw_only=True)
class Protocol(Generic[S]):
    """A way to evaluate a run.

    Attributes:
        title: For people.
        spec: Its fields.
        shown: Fields that tell one evaluation of a run from another, in its title.
        grid: The field that is searched, if any; evaluations that differ in it alone are computed together.
        multi_label: Whether it can evaluate images that have several classes.
        compute: Name of the module that computes it; imported when an evaluation runs, since it imports torch. It has
            ``evaluate(specs, trained, seed)``: from specifications that differ in ``grid`` alone, a run and a seed to
            one :data:`EvalOutcome` each.
        images: How many images go through the network for such specifications, given the run's training images, beyond
            the one pass for the features that all protocols share.
        check: Raises :class:`UserError` for a specification that the data cannot serve.
    """

    title: str
    spec: type[S]
    shown: tuple[str, ...]
    grid: str = ""
    multi_label: bool = False
    compute: str
    images: Callable[[Sequence[S], int], int] = lambda specs, images: 0
    check: Callable[[S, EvalSizes], None] = lambda spec, sizes: None

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return self.spec.name

    def evaluate(self, specs: Sequence[S], trained: "Trained", seed: int) -> list[EvalOutcome]:
        """Compute the outcome of each specification.

        Raises:
            UserError: The run cannot be evaluated so.
            RunFailed: The run has collapsed.
        """
        outcomes: list[EvalOutcome] = import_module(self.compute).evaluate(specs, trained, seed)
        return outcomes
