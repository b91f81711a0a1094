"""How student and teacher normalize: the schemes of Tables 1 and 8 as data."""

from dataclasses import dataclass

from eman.platform.errors import UserError, named, unknown


@dataclass(frozen=True, kw_only=True)
class TeacherNorm:
    """How a teacher normalizes.

    Attributes:
        norm: Kind of layer: ``bn``, ``syncbn``, ``gn``, ``in``, ``ln``; ``None``: the student's.
        own_batch: It normalizes with the statistics of its own batch, Eq. (3); otherwise with stored ones, Eq. (8).
        statistics: Where stored statistics come from: ``own`` batches while normalizing with them, ``average`` of the
            student's, Eq. (9), a ``copy`` of the student's, or what the teacher has ``collect``-ed from its own inputs
            up to the previous iteration, Eq. (4).
        shuffle: Its inputs are permuted over all devices and its outputs put back (ShuffleBN).
        joint: There is no second network: the student's pass over all views serves as the teacher's (FixMatch).
    """

    norm: str | None = None
    own_batch: bool = False
    statistics: str = "own"
    shuffle: bool = False
    joint: bool = False


#: Student norms, with the paper's names for them.
STUDENT_NORMS = {"bn": "BN", "syncbn": "SyncBN", "gn": "GN", "in": "IN", "ln": "LN"}


TEACHER_NORMS = {
    **{kind: TeacherNorm(norm=kind, own_batch=True) for kind in STUDENT_NORMS},
    "shufflebn": TeacherNorm(norm="bn", own_batch=True, shuffle=True),
    "eman": TeacherNorm(statistics="average"),
    "student-pn": TeacherNorm(statistics="copy"),
    "teacher-pn": TeacherNorm(statistics="collect"),
    "student": TeacherNorm(joint=True),
}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A row of Table 1 or 8. ``None`` means that the value plays no part or, for ``eman_momentum``, that the
    statistics move with the momentum of the parameters.
    """

    title: str
    student: str = "bn"
    teacher: str
    student_proxy_momentum: float = 0.9
    teacher_proxy_momentum: float | None = None
    eman_momentum: float | None = None


#: Every row of Tables 1 and 8, and LN. A new scheme is one entry. ``default`` is FixMatch's; the entries of the other
#: methods (``trainers/methods.py``) say which scheme is theirs.
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
    """The scheme of that name.

    Raises:
        UserError: There is none.
    """
    return named("scheme", name, SCHEMES)


def check_names(student_norm: str, teacher_norm: str) -> None:
    """Raises :class:`UserError` unless both names are known."""
    if student_norm not in STUDENT_NORMS:
        raise unknown("student_norm", student_norm, STUDENT_NORMS)
    if teacher_norm not in TEACHER_NORMS:
        raise unknown("teacher_norm", teacher_norm, TEACHER_NORMS)
    needs_statistics = TEACHER_NORMS[teacher_norm].statistics != "own"
    if needs_statistics and student_norm not in ("bn", "syncbn"):
        raise UserError(
            f"teacher_norm is {teacher_norm!r}, which lives on batch statistics, and student_norm is "
            f"{student_norm!r}, which keeps none; give student_norm bn or syncbn."
        )
