"""The declaration of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from eman.trainers.methods import momentum as schedules
from eman.trainers.spec.method import MethodSection
from eman.trainers.spec.sections import OptimSpec

if TYPE_CHECKING:
    from torch import Tensor

    from eman.trainers.losses.criterion import Parts
    from eman.trainers.views.draws import Draws
    from eman.trainers.views.options import ViewOptions

    Augmentation = Callable[[Tensor, Draws, ViewOptions], Tensor]

S = TypeVar("S", bound=MethodSection)

#: The stream of a view's images, and its augmentation: a name in :data:`eman.trainers.views.views.VIEWS`, or a function
#: like those there, whose random draws all come from its ``draws``.
View = tuple[str, "str | Augmentation"]

#: For each forward pass of a network, the views to concatenate.
Passes = tuple[tuple[str, ...], ...]


def _never(_section: MethodSection) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Method(Generic[S]):
    """A student-teacher method.

    Attributes:
        name: Name on the command line.
        title: Name in the paper.
        section: The method's own fields, with the official code's values as defaults.
        optim: The official values of the shared optimizer fields.
        default_scheme: Scheme that ``default`` stands for, the row "default / default".
        views: The views of a step by name, each a pair (stream, augmentation).
        student: For each forward pass of the student, the views to concatenate.
        teacher: For each forward pass of the teacher, the views to concatenate; empty if there is no teacher.
        symmetric: From a run's section to whether every pass is repeated with the views of student and teacher
            exchanged.
        teacher_moves: When the teacher is updated: ``between`` the forward passes of student and teacher, or ``after``
            the optimizer's step.
        momentum: Schedule of m of Eq. (1).
        losses: The loss and the heads; or the module whose ``PARTS`` they are, imported when a run starts.
        classifier: Whether the student outputs class logits, whose accuracy is then measured.
        shown: Measures of the loss that ``eman train`` shows beside it; ``None`` for all that the loss returns.
        profiles: Fields at a profile, by the profile's name, where the profile has none for this method.
        version: Part of the keys of runs, unless it is 1: raise it when a change of code changes results.
    """

    name: str
    title: str
    section: type[S]
    optim: OptimSpec = field(default_factory=OptimSpec)
    default_scheme: str
    views: Mapping[str, View]
    student: Passes
    teacher: Passes
    symmetric: Callable[[S], bool] = _never
    teacher_moves: Literal["between", "after"] = "after"
    momentum: schedules.MomentumSchedule = schedules.constant
    losses: str | Parts[S]
    classifier: bool = False
    shown: tuple[str, ...] | None = None
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: int = 1

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that a step reads, sorted; an epoch is one pass over the last."""
        return tuple(sorted({stream for stream, _ in self.views.values()}))

    def student_passes(self, section: S) -> Passes:
        """Return the student's forward passes in a run; the teacher's have the same order."""
        return self.student + self.teacher if self.symmetric(section) else self.student

    def teacher_passes(self, section: S) -> Passes:
        """Return the teacher's forward passes in a run."""
        return self.teacher + self.student if self.symmetric(section) else self.teacher

    def parts(self) -> Parts[S]:
        """Import and return the loss and the heads."""
        return cast("Parts[S]", import_module(self.losses).PARTS) if isinstance(self.losses, str) else self.losses
