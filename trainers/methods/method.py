"""The form of a method's entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

from eman.trainers.methods import momentum as schedules
from eman.trainers.spec.method import MethodSection
from eman.trainers.spec.sections import OptimSpec

if TYPE_CHECKING:
    from eman.trainers.losses.criterion import Parts

S = TypeVar("S", bound=MethodSection)

#: Where a view's images come from and how they are changed: (stream, view).
View = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Method(Generic[S]):
    """A student-teacher method.

    Attributes:
        name: The name that one types.
        title: The paper's name.
        section: The method's own fields, with the official code's values as defaults.
        optim: The official values of the shared optimizer fields.
        default_scheme: The scheme behind the row "default / default".
        views: Names for the (stream, view) pairs that a step needs.
        student: Inputs of the student: for each of its passes, the views that are concatenated.
        teacher: Inputs of the teacher, likewise.
        teacher_moves: ``between`` the student's and the teacher's pass, or ``after`` the optimizer's step.
        momentum: How m of Eq. (1) changes over a run.
        losses: The module whose ``PARTS`` hold the loss and the heads; it is imported when a run starts.
        classifier: Whether the student ends in class logits; its accuracy is then measured directly.
    """

    name: str
    title: str
    section: type[S]
    optim: OptimSpec = field(default_factory=OptimSpec)
    default_scheme: str
    views: Mapping[str, View]
    student: tuple[tuple[str, ...], ...]
    teacher: tuple[tuple[str, ...], ...]
    teacher_moves: Literal["between", "after"] = "after"
    momentum: schedules.MomentumSchedule = schedules.constant
    losses: str
    classifier: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that a step reads, in a fixed order; the last one's passes make an epoch."""
        return tuple(sorted({stream for stream, _ in self.views.values()}))

    def parts(self) -> Parts[S]:
        """Import and return the loss and the heads."""
        return cast("Parts[S]", import_module(self.losses).PARTS)
