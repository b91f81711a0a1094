"""The schemes that `eman schemes` lists."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from eman.trainers.norm.schemes import SCHEMES, STUDENT_NORMS, TEACHER_NORMS, Scheme, scheme_named

_ABOUT = "The teacher's parameters follow the student's by Eq. (1) in every scheme; schemes differ in the norms."


def listed_schemes(name: str | None) -> dict[str, Scheme]:
    """Return the scheme of this name, or all; raise `UserError` if there is none."""
    return dict(SCHEMES) if name is None else {name: scheme_named(name)}


def scheme_values(name: str, scheme: Scheme) -> dict[str, Any]:
    """Return a scheme as plain values, with the rules of its norms and their sources."""
    student, teacher = STUDENT_NORMS[scheme.student], TEACHER_NORMS[scheme.teacher]
    return {
        "name": name,
        "title": scheme.title,
        "student": {"norm": scheme.student, "rule": student.rule, "source": student.source},
        "teacher": {"norm": scheme.teacher, "statistics": teacher.rule, "source": teacher.source},
        "momenta": {
            "student_proxy_momentum": scheme.student_proxy_momentum,
            "teacher_proxy_momentum": scheme.teacher_proxy_momentum,
            "eman_momentum": scheme.eman_momentum,
        },
    }


def scheme_lines(schemes: Mapping[str, Scheme]) -> list[str]:
    """Return schemes as lines: name and title, the student's norm, the teacher's statistics."""
    width, lines = max(60, shutil.get_terminal_size().columns), textwrap.wrap(_ABOUT)
    for name, scheme in schemes.items():
        values = scheme_values(name, scheme)
        lines += ["", f"{name}  ({scheme.title})"]
        for role, key, text in (("student", "rule", "norm"), ("teacher", "statistics", "statistics")):
            part = values[role]
            line = f"{role}'s {text}: {part[key]}  [{part['source']}]"
            lines += textwrap.wrap(line, width, initial_indent="    ", subsequent_indent="        ")
    return lines
