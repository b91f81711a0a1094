"""Normalization schemes of Tables 1 and 8, as data, without torch."""

from dataclasses import dataclass
from enum import Enum

from eman.platform.errors import UserError, named, unknown


class Move(Enum):
    """How :meth:`~eman.trainers.norm.teacher.Teacher.update` changes a kind of tensor."""

    AVERAGE = "average with the momentum of Eq. (1)"
    AVERAGE_STATISTICS = "average with the momentum of Eq. (9)"
    COPY = "copy the student's"
    KEEP = "leave unchanged"


@dataclass(frozen=True, kw_only=True)
class TeacherNorm:
    """How a teacher normalizes and follows its student; :mod:`~eman.trainers.norm.policies` implements it.

    Attributes:
        norm: Norm layer: ``bn``, ``syncbn``, ``gn``, ``in`` or ``ln``; ``None`` for the student's.
        own_batch: Run the teacher in training mode, normalizing with its own batch, Eq. (3). Otherwise it runs in
            evaluation mode and normalizes with running statistics, Eq. (8).
        parameters: How an update changes parameters.
        statistics: How an update changes the running statistics of batch norms.
        buffers: How an update changes other floating-point buffers. Integer buffers are copied unless they are kept.
        collects: Update running statistics from the teacher's own inputs after each pass, Eq. (4).
        shuffle: Permute inputs over all devices before the pass, and outputs back (ShuffleBN).
        joint: Have no second network; the student's pass over all views also yields the teacher's outputs (FixMatch).
    """

    norm: str | None = None
    own_batch: bool = False
    parameters: Move = Move.AVERAGE
    statistics: Move = Move.KEEP
    buffers: Move = Move.AVERAGE
    collects: bool = False
    shuffle: bool = False
    joint: bool = False

    @property
    def needs_batch_norms(self) -> bool:
        """Whether this teacher uses running statistics of batch norms, which the student must then have."""
        return self.collects or self.statistics is not Move.KEEP

    @property
    def averages_statistics(self) -> bool:
        """Whether running statistics are averaged by Eq. (9)."""
        return self.statistics is Move.AVERAGE_STATISTICS

    @property
    def independent(self) -> bool:
        """Whether an output depends on its own image alone, not on others in this pass or in earlier ones."""
        return not (self.own_batch or self.collects)


#: Student norms, with the paper's names for them.
STUDENT_NORMS = {"bn": "BN", "syncbn": "SyncBN", "gn": "GN", "in": "IN", "ln": "LN"}

#: Teacher norms by name. Proxy norm (PN) is the paper's term for running statistics of one network's own batches.
TEACHER_NORMS = {
    **{kind: TeacherNorm(norm=kind, own_batch=True) for kind in STUDENT_NORMS},
    "shufflebn": TeacherNorm(norm="bn", own_batch=True, shuffle=True),
    "eman": TeacherNorm(statistics=Move.AVERAGE_STATISTICS),
    "student-pn": TeacherNorm(statistics=Move.COPY),
    "teacher-pn": TeacherNorm(collects=True),
    "student": TeacherNorm(joint=True),
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A row of Table 1 or 8.

    Attributes:
        title: The paper's name.
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


#: Every row of Tables 1 and 8, and LN. ``default`` is FixMatch's default; other methods name theirs in
#: ``Method.default_scheme``.
SCHEMES = {
    "default": Scheme(title="default / default", teacher="student"),
    "bn": Scheme(title="BN / BN", teacher="bn"),
    "syncbn": Scheme(title="SyncBN / SyncBN", student="syncbn", teacher="syncbn"),
    "shufflebn": Scheme(title="BN / ShuffleBN", teacher="shufflebn"),
    "gn": Scheme(title="GN / GN", student="gn", teacher="gn"),
    "in": Scheme(title="IN / IN", student="in", teacher="in"),
    "ln": Scheme(title="LN / LN", student="ln", teacher="ln"),
    "eman": Scheme(title="BN / EMAN", teacher="eman"),
    "eman-m0.9": Scheme(title="BN / EMAN (m=0.9)", teacher="eman", eman_momentum=0.9),
    "eman-m0.99999": Scheme(title="BN / EMAN (m=0.99999)", teacher="eman", eman_momentum=0.99999),
    "teacher-pn-0.9": Scheme(title="BN / teacher PN (α=0.9)", teacher="teacher-pn", teacher_proxy_momentum=0.9),
    "student-pn-0.9": Scheme(title="BN / student PN (α=0.9)", teacher="student-pn"),
    "teacher-pn-0.999": Scheme(title="BN / teacher PN (α=0.999)", teacher="teacher-pn", teacher_proxy_momentum=0.999),
    "student-pn-0.999": Scheme(title="BN / student PN (α=0.999)", teacher="student-pn", student_proxy_momentum=0.999),
}


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
    if TEACHER_NORMS[teacher_norm].needs_batch_norms and student_norm not in ("bn", "syncbn"):
        raise UserError(
            f"teacher_norm {teacher_norm!r} uses the statistics of batch norms, and student_norm {student_norm!r} "
            f"keeps none; give student_norm bn or syncbn."
        )
