"""Normalization schemes: the rows of Tables 1 and 8, and more, as data, without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from eman.platform.errors import UserError, named, unknown
from eman.platform.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from eman.trainers.norm.rules import StatisticsRule


class Move(Enum):
    """How :meth:`~eman.trainers.norm.teacher.Teacher.update` changes a kind of tensor."""

    AVERAGE = "average with the momentum of Eq. (1)"
    AVERAGE_STATISTICS = "average with the momentum of Eq. (9)"
    AVERAGE_CORRECTED = "average with the momentum of Eq. (9), divided by the student's share of the average"
    COPY = "copy the student's"
    KEEP = "leave unchanged"


#: Value of ``StudentNorm.groups``: one group per channel.
EACH_CHANNEL = 0


@dataclass(frozen=True, kw_only=True)
class StudentNorm:
    """A normalization layer; :mod:`~eman.trainers.norm.convert` builds it in the place of batch norm.

    Attributes:
        title: Name in titles.
        layer: ``batch``: batch norm. ``group``: group norm. ``frn``, ``evonorm``: a norm with its own activation; on
            vectors, which have no pixels, layer norm. Or a function from the number of channels, and from whether
            inputs are vectors ``(N, C)`` instead of maps, to a layer that treats every image by itself.
        sync: Batch norm over all devices.
        groups: Groups of channels, or fewer so that each has two channels; :data:`EACH_CHANNEL` for one per channel,
            which on vectors, where it would erase every value, is one group.
        standardizes_weights: Convolutions use standardized weights, see
            :func:`~eman.trainers.norm.weights.standardize_weights`.
        rule: The layer in one line, for ``eman schemes``.
        source: Where it comes from.
        version: Part of the keys of runs, unless it is 1: raise it when a change of code changes results.
    """

    title: str
    layer: Literal["batch", "group", "frn", "evonorm"] | Callable[[int, bool], nn.Module] = "group"
    sync: bool = False
    groups: int = 32
    standardizes_weights: bool = False
    rule: str
    source: str = "ours"
    version: int = 1

    @property
    def keeps_statistics(self) -> bool:
        """Whether it normalizes over a batch and keeps running statistics."""
        return self.layer == "batch"


@dataclass(frozen=True, kw_only=True)
class TeacherNorm:
    """How a teacher normalizes and follows its student; :mod:`~eman.trainers.norm.policies` implements it.

    Attributes:
        title: Name in titles.
        norm: Norm layer, a key of :data:`STUDENT_NORMS`; ``None`` for the student's.
        own_batch: Run the teacher in training mode, normalizing with its own batch, Eq. (3). Otherwise it runs in
            evaluation mode and normalizes with running statistics, Eq. (8).
        parameters: How an update changes parameters.
        statistics: How an update changes the running statistics of batch norms: a move, or a class derived from
            :class:`~eman.trainers.norm.rules.StatisticsRule`, whose code decides.
        buffers: How an update changes other floating-point buffers. Integer buffers are copied unless they are kept.
        collects: Update running statistics from the teacher's own inputs after each pass, Eq. (4).
        blends: With ``own_batch``: normalize with running statistics after they have taken in the own batch, whose
            weight falls from 1 to 0 along a cosine over the run
            (:class:`~eman.trainers.norm.momentum_bn.MomentumBatchNorm`).
        shuffle: Permute inputs over all devices before the pass, and outputs back (ShuffleBN).
        joint: Have no second network; the student's pass over all views also yields the teacher's outputs (FixMatch).
        rule: The teacher's statistics in one line, for ``eman schemes``.
        source: Where it comes from.
        version: Part of the keys of runs, unless it is 1: raise it when a change of code changes results.
    """

    title: str
    norm: str | None = None
    own_batch: bool = False
    parameters: Move = Move.AVERAGE
    statistics: Move | type[StatisticsRule] = Move.KEEP
    buffers: Move = Move.AVERAGE
    collects: bool = False
    blends: bool = False
    shuffle: bool = False
    joint: bool = False
    rule: str = ""
    source: str = "ours"
    version: int = 1

    @property
    def needs_batch_norms(self) -> bool:
        """Whether this teacher uses running statistics of batch norms, which the student must then have."""
        return self.blends or not (self.own_batch or self.joint)

    @property
    def averages_statistics(self) -> bool:
        """Whether running statistics move with the momentum of Eq. (9): they are averaged, or follow a rule."""
        return self.statistics in (Move.AVERAGE_STATISTICS, Move.AVERAGE_CORRECTED) or isinstance(self.statistics, type)

    @property
    def independent(self) -> bool:
        """Whether an output depends on its own image alone, not on others in this pass or in earlier ones."""
        return not (self.own_batch or self.collects)


_PAPER = "the paper"

#: The built-in student norms. B: a batch, C: channels, in a rule.
_STUDENT_NORMS = {
    "bn": StudentNorm(
        title="BN",
        layer="batch",
        rule="γ (x - μ_B) / √(σ²_B + ε) + β over the images of a device, Eq. (3)",
        source="arXiv 1502.03167",
    ),
    "syncbn": StudentNorm(
        title="SyncBN", layer="batch", sync=True, rule="BN over the images of all devices", source=_PAPER
    ),
    "gn": StudentNorm(
        title="GN", rule="γ (x - μ_g) / √(σ²_g + ε) + β over 32 groups of channels, or fewer", source="arXiv 1803.08494"
    ),
    "in": StudentNorm(title="IN", groups=EACH_CHANNEL, rule="GN with one group per channel", source="arXiv 1607.08022"),
    "ln": StudentNorm(title="LN", groups=1, rule="GN with one group", source="arXiv 1607.06450"),
    "gn-ws": StudentNorm(
        title="GN+WS",
        standardizes_weights=True,
        rule="GN; convolutions use (w - μ_w) / √(σ²_w + ε) over the weights w of an output channel",
        source="arXiv 1903.10520; in BYOL: arXiv 2010.10241",
    ),
    "evonorm-s0": StudentNorm(
        title="EvoNorm-S0",
        layer="evonorm",
        rule="γ x sigmoid(v x) / √(σ²_g + ε) + β, instead of norm and ReLU; over the groups of GN",
        source="arXiv 2004.02967",
    ),
    "frn": StudentNorm(
        title="FRN",
        layer="frn",
        rule="max(γ x / √(mean(x²) + ε) + β, τ), instead of norm and ReLU; mean over a channel's pixels",
        source="arXiv 1911.09737",
    ),
}

#: The other built-in teacher norms. Proxy norm (PN) is the paper's term for running statistics of one network's own
#: batches.
_TEACHER_NORMS = {
    "shufflebn": TeacherNorm(
        title="ShuffleBN",
        norm="bn",
        own_batch=True,
        shuffle=True,
        rule="of its own batch, Eq. (3), after a permutation of the images over the devices",
        source="arXiv 1911.05722",
    ),
    "eman": TeacherNorm(
        title="EMAN",
        statistics=Move.AVERAGE_STATISTICS,
        rule="μ' := m μ' + (1 - m) μ, likewise σ'², Eq. (9)",
        source=_PAPER,
    ),
    "eman-corrected": TeacherNorm(
        title="bias-corrected EMAN",
        statistics=Move.AVERAGE_CORRECTED,
        rule="s := m s + (1 - m) μ from s = 0, μ' := s / (1 - Π m), likewise σ'²",
        source="Eq. (9), corrected as in arXiv 1412.6980",
    ),
    "student-pn": TeacherNorm(
        title="student PN", statistics=Move.COPY, rule="a copy of the student's: Eq. (9) with m = 0", source=_PAPER
    ),
    "teacher-pn": TeacherNorm(
        title="teacher PN", collects=True, rule="Eq. (4) on its own inputs, up to the iteration before", source=_PAPER
    ),
    "frozen": TeacherNorm(
        title="frozen",
        rule="the student's at the start, never changed",
        source="as in Unbiased Teacher, arXiv 2102.09480",
    ),
    "momentum2": TeacherNorm(
        title="Momentum² teacher",
        norm="bn",
        own_batch=True,
        blends=True,
        rule="μ' := a μ_B + (1 - a) μ' of its own batch, likewise σ'², then Eq. (8); a = (1 + cos(π t/T)) / 2",
        source="arXiv 2101.07525",
    ),
    "student": TeacherNorm(
        title="default", joint=True, rule="none: the student's own pass over all views", source="arXiv 2001.07685"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A pair of norms and their momenta: a row of a table.

    Attributes:
        title: The paper's name, or ours in its manner.
        student: A key of :data:`STUDENT_NORMS`.
        teacher: A key of :data:`TEACHER_NORMS`.
        student_proxy_momentum: Momentum alpha of Eq. (4) in the student.
        teacher_proxy_momentum: Momentum alpha of Eq. (4) in a teacher that collects statistics; else ``None``.
        eman_momentum: Momentum m of Eq. (9); ``None`` for that of Eq. (1).
    """

    title: str
    student: str = "bn"
    teacher: str
    student_proxy_momentum: float = 0.9
    teacher_proxy_momentum: float | None = None
    eman_momentum: float | None = None


#: Every row of Tables 1 and 8, then those that the paper does not have. ``default`` is FixMatch's default; other
#: methods name theirs in ``Method.default_scheme``.
_SCHEMES = {
    "default": Scheme(title="default / default", teacher="student"),
    "bn": Scheme(title="BN / BN", teacher="bn"),
    "syncbn": Scheme(title="SyncBN / SyncBN", student="syncbn", teacher="syncbn"),
    "shufflebn": Scheme(title="BN / ShuffleBN", teacher="shufflebn"),
    "gn": Scheme(title="GN / GN", student="gn", teacher="gn"),
    "in": Scheme(title="IN / IN", student="in", teacher="in"),
    "eman": Scheme(title="BN / EMAN", teacher="eman"),
    "eman-m0.9": Scheme(title="BN / EMAN (m=0.9)", teacher="eman", eman_momentum=0.9),
    "eman-m0.99999": Scheme(title="BN / EMAN (m=0.99999)", teacher="eman", eman_momentum=0.99999),
    "teacher-pn-0.9": Scheme(title="BN / teacher PN (α=0.9)", teacher="teacher-pn", teacher_proxy_momentum=0.9),
    "student-pn-0.9": Scheme(title="BN / student PN (α=0.9)", teacher="student-pn"),
    "teacher-pn-0.999": Scheme(title="BN / teacher PN (α=0.999)", teacher="teacher-pn", teacher_proxy_momentum=0.999),
    "student-pn-0.999": Scheme(title="BN / student PN (α=0.999)", teacher="student-pn", student_proxy_momentum=0.999),
    "ln": Scheme(title="LN / LN", student="ln", teacher="ln"),
    "gn-ws": Scheme(title="GN+WS / GN+WS", student="gn-ws", teacher="gn-ws"),
    "evonorm-s0": Scheme(title="EvoNorm-S0 / EvoNorm-S0", student="evonorm-s0", teacher="evonorm-s0"),
    "frn": Scheme(title="FRN / FRN", student="frn", teacher="frn"),
    "syncbn-eman": Scheme(title="SyncBN / EMAN", student="syncbn", teacher="eman"),
    "eman-corrected": Scheme(title="BN / bias-corrected EMAN", teacher="eman-corrected"),
    "momentum2": Scheme(title="BN / Momentum² teacher", teacher="momentum2"),
    "frozen": Scheme(title="BN / frozen", teacher="frozen"),
}


#: Student norms by name; :func:`register_norm` adds to them.
STUDENT_NORMS = Registry[StudentNorm]("student norm")

#: Teacher norms by name; :func:`register_teacher_norm` adds to them.
TEACHER_NORMS = Registry[TeacherNorm]("teacher norm")

#: Schemes by name; :func:`register_scheme` adds to them.
SCHEMES = Registry[Scheme]("scheme")


def register_norm(name: str, norm: StudentNorm) -> None:
    """Add a student norm, and the teacher norm of this name, which normalizes the teacher's own batch with it.

    Raises:
        UserError: The name is taken, or a layer of one's own does not treat every image by itself.
    """
    if not isinstance(norm.layer, str):
        from eman.trainers.norm.rules import check_layer

        check_layer(name, norm.layer)
    TEACHER_NORMS.check(name)
    STUDENT_NORMS.add(name, norm)
    rule = "of its own batch, Eq. (3)" if norm.keeps_statistics else "none: as the student"
    source = _PAPER if name in ("bn", "syncbn", "gn", "in") else norm.source
    register_teacher_norm(name, TeacherNorm(title=norm.title, norm=name, own_batch=True, rule=rule, source=source))


def register_teacher_norm(name: str, norm: TeacherNorm) -> None:
    """Add a teacher norm.

    Raises:
        UserError: The name is taken, its layer is unknown, or its rule cannot move statistics.
    """
    if norm.norm is not None and norm.norm not in STUDENT_NORMS:
        raise unknown(f"norm of teacher norm {name!r}", norm.norm, STUDENT_NORMS)
    if not isinstance(norm.statistics, Move):
        from eman.trainers.norm.rules import check_rule

        check_rule(name, norm.statistics)
    TEACHER_NORMS.add(name, norm)


def register_scheme(name: str, scheme: Scheme) -> None:
    """Add a scheme.

    Raises:
        UserError: The name is taken; a norm is unknown, or the two do not fit; a momentum is not in [0, 1], or lacks.
    """
    check_names(scheme.student, scheme.teacher)
    collects = TEACHER_NORMS[scheme.teacher].collects
    if collects != (scheme.teacher_proxy_momentum is not None):
        verb = "needs" if collects else "does not collect statistics, and has no use for"
        raise UserError(f"scheme {name!r}: teacher norm {scheme.teacher!r} {verb} teacher_proxy_momentum.")
    for part in ("student_proxy_momentum", "teacher_proxy_momentum", "eman_momentum"):
        if (value := getattr(scheme, part)) is not None and not 0 <= value <= 1:
            raise UserError(f"scheme {name!r}: {part} is {value}; give a number from 0 to 1.")
    SCHEMES.add(name, scheme)


def scheme_named(name: str) -> Scheme:
    """Return the scheme called ``name``.

    Raises:
        UserError: It does not exist.
    """
    return named("scheme", name, SCHEMES)


def check_names(student_norm: str, teacher_norm: str) -> None:
    """Check that both norms exist and fit together.

    Raises:
        UserError: They do not.
    """
    if student_norm not in STUDENT_NORMS:
        raise unknown("student_norm", student_norm, STUDENT_NORMS)
    if teacher_norm not in TEACHER_NORMS:
        raise unknown("teacher_norm", teacher_norm, TEACHER_NORMS)
    if TEACHER_NORMS[teacher_norm].needs_batch_norms and not STUDENT_NORMS[student_norm].keeps_statistics:
        raise UserError(
            f"teacher_norm {teacher_norm!r} uses the statistics of batch norms, and student_norm {student_norm!r} "
            f"keeps none; give student_norm bn or syncbn."
        )


for _name, _student in _STUDENT_NORMS.items():
    register_norm(_name, _student)
for _name, _teacher in _TEACHER_NORMS.items():
    register_teacher_norm(_name, _teacher)
for _name, _scheme in _SCHEMES.items():
    register_scheme(_name, _scheme)
