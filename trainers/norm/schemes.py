"""How student and teacher normalize: the schemes of Tables 1 and 8 as data, without importing torch."""

from dataclasses import dataclass
from enum import Enum

from eman.platform.errors import UserError, named, unknown


class Move(Enum):
    """What :meth:`~eman.trainers.norm.teacher.Teacher.update` does to one kind of tensor."""

    AVERAGE = "average with the momentum of Eq. (1)"
    AVERAGE_STATISTICS = "average with the momentum of Eq. (9)"
    COPY = "copy the student's"
    KEEP = "leave unchanged"


@dataclass(frozen=True, kw_only=True)
class TeacherNorm:
    """How a teacher normalizes and follows its student: data that :mod:`~eman.trainers.norm.policies` carries out.

    Attributes:
        norm: Kind of norm layer: ``bn``, ``syncbn``, ``gn``, ``in`` or ``ln``; ``None`` for the student's.
        own_batch: Run the teacher in training mode, normalizing with its own batch, Eq. (3). Otherwise it runs in
            evaluation mode and normalizes with running statistics, Eq. (8).
        parameters: What an update does to parameters.
        statistics: What an update does to the running statistics of batch norms.
        buffers: What an update does to other floating-point buffers. Integer buffers are always copied.
        collects: Update running statistics from the teacher's own inputs, after each pass, Eq. (4).
        shuffle: Permute inputs over all devices and put outputs back (ShuffleBN).
        joint: Have no second network: the student's pass over all views also gives the teacher's outputs (FixMatch).
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
        """Whether the student must have batch norms, whose statistics this teacher uses."""
        return self.collects or self.statistics is not Move.KEEP

    @property
    def averages_statistics(self) -> bool:
        """Whether Eq. (9) applies, so that its momentum changes the result."""
        return self.statistics is Move.AVERAGE_STATISTICS

    @property
    def independent(self) -> bool:
        """Whether an image's output depends on nothing else in this pass or in earlier ones since the last update."""
        return not (self.own_batch or self.collects)


#: Student norms, with the paper's names for them.
STUDENT_NORMS = {"bn": "BN", "syncbn": "SyncBN", "gn": "GN", "in": "IN", "ln": "LN"}

#: Teacher norms by name. Proxy norm is the paper's word for statistics taken from one network's own batches.
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
        student_proxy_momentum: alpha of Eq. (4) in the student.
        teacher_proxy_momentum: alpha of Eq. (4) in a teacher that collects statistics; ``None`` elsewhere.
        eman_momentum: m of Eq. (9); ``None`` for that of Eq. (1).
    """

    title: str
    student: str = "bn"
    teacher: str
    student_proxy_momentum: float = 0.9
    teacher_proxy_momentum: float | None = None
    eman_momentum: float | None = None


#: Every row of Tables 1 and 8, and LN. ``default`` is FixMatch's; the other methods name their default scheme in their
#: entry in :mod:`eman.trainers.methods.registry`.
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
        UserError: There is none.
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
