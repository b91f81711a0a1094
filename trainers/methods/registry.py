"""Every method by name."""

from typing import Any

from eman.platform.errors import UserError, named
from eman.trainers.methods import byol, fixmatch, moco, supervised
from eman.trainers.methods.method import Method
from eman.trainers.spec.sections import DataSpec, ExecutionSpec, NormSpec, OptimSpec

#: Every method by name; :func:`register_method` adds to it.
METHODS: dict[str, Method[Any]] = {}

#: Names of shared fields, which a method's section cannot use.
_TAKEN = {
    *("method", "name", "seed", "monitor_every", "backbone", "precision", "init", "source"),
    *(name for section in (DataSpec, NormSpec, OptimSpec, ExecutionSpec) for name in section.model_fields),
}


def register_method(method: Method[Any]) -> None:
    """Add a method.

    Raises:
        UserError: Its name is taken, a field has the name of a shared one, or its section lacks the batch of a stream.
    """
    if method.name in METHODS:
        raise UserError(f"method {method.name!r} is already registered; give another name.")
    clashes = sorted((set(method.section.model_fields) - {"name"}) & _TAKEN)
    if clashes:
        raise UserError(f"method {method.name!r} has a field {clashes[0]!r}, which all runs have; rename it.")
    if set(method.section().batches()) != set(method.streams):
        raise UserError(
            f"method {method.name!r} reads the streams {', '.join(method.streams)}, and its section has batches for "
            f"{', '.join(method.section().batches())}; derive it from LabelledSection, UnlabelledSection or both."
        )
    METHODS[method.name] = method


for _method in (fixmatch.METHOD, moco.METHOD, byol.METHOD, supervised.METHOD):
    register_method(_method)


def method_named(name: str) -> Method[Any]:
    """Return the method of that name; raise :class:`~eman.platform.errors.UserError` if there is none."""
    return named("method", name, METHODS)
