"""Every method by name."""

from typing import Any

from eman.platform.errors import UserError, named, unknown
from eman.platform.registry import Registry
from eman.trainers.methods import byol, fixmatch, moco, supervised
from eman.trainers.methods.method import Method
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.kinds import check_kinds
from eman.trainers.spec.method import TeacherSection
from eman.trainers.spec.sections import DataSpec, ExecutionSpec, NormSpec, OptimSpec

#: Every method by name; :func:`register_method` adds to it.
METHODS = Registry[Method[Any]]("method", dots=False)

#: Names of shared fields, which a method's section cannot use.
_TAKEN = {
    *("method", "name", "seed", "monitor_every", "backbone", "precision", "init", "source"),
    *(name for section in (DataSpec, NormSpec, OptimSpec, ExecutionSpec) for name in section.model_fields),
}


def register_method(method: Method[Any]) -> None:
    """Add a method.

    Raises:
        UserError: Its name is taken, a field has the name of a shared one or a type that no command can parse, its
            passes name unknown views, its section lacks the batch of a stream, or its loss is not a mean over images.
    """
    owner, section = f"method {method.name!r}", method.section
    METHODS.check(method.name)
    check_kinds(owner, section)
    clashes = sorted((set(section.model_fields) - {"name"}) & _TAKEN)
    if clashes:
        raise UserError(f"{owner} has a field {clashes[0]!r}, which all runs have; rename it.")
    made = section()
    if made.name != method.name:
        raise UserError(f"{owner}: the field name of its section is {made.name!r}; give both the same.")
    views = {view for names in (*method.student, *method.teacher) for view in names}
    if not method.student or views != set(method.views):
        raise UserError(
            f"{owner} has the views {', '.join(sorted(method.views))}, and its passes use "
            f"{', '.join(sorted(views)) or 'none'}; student must have a pass, and every view must be used."
        )
    if set(made.batches()) != set(method.streams):
        raise UserError(
            f"{owner} reads the streams {', '.join(method.streams)}, and its section has batches for "
            f"{', '.join(made.batches())}; derive it from LabelledSection, UnlabelledSection or both."
        )
    if bool(method.teacher) != isinstance(made, TeacherSection):
        raise UserError(f"{owner}: a method has teacher passes if its section derives from TeacherSection; mend one.")
    if method.default_scheme not in SCHEMES:
        raise unknown(f"default_scheme of {owner}", method.default_scheme, SCHEMES)
    if not isinstance(method.losses, str):
        from eman.trainers.losses.check import check_parts

        check_parts(method)
    METHODS.add(method.name, method)


for _method in (fixmatch.METHOD, moco.METHOD, byol.METHOD, supervised.METHOD):
    register_method(_method)


def method_named(name: str) -> Method[Any]:
    """Return the method of that name; raise :class:`~eman.platform.errors.UserError` if there is none."""
    return named("method", name, METHODS)
