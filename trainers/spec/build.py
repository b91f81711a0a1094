"""Make a run's specification from a method, a scheme and flat fields."""

from collections.abc import Mapping
from typing import Any

from eman.platform.errors import unknown
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.norm.schemes import TEACHER_NORMS, Scheme, scheme_named
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import keeps_statistics


def resolve_scheme(method: str, scheme: str) -> Scheme:
    """Return a scheme by name; ``default`` is the method's own. Raise :class:`UserError` for an unknown name."""
    entry = method_named(method)
    return scheme_named(entry.default_scheme if scheme == "default" else scheme)


def make_spec(
    method: str, scheme: str | Scheme, fields: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> RunSpec:
    """Make a run's specification: the method's official values, then the scheme, ``fields`` and ``overrides``.

    Args:
        method: A method's name.
        scheme: A scheme, or its name.
        fields: Flat fields that override the official values and the scheme, for example a profile's.
        overrides: Flat fields that the user set. ``moco.queue`` applies to method ``moco`` only. A field that has no
            effect, such as ``milestones`` without schedule ``step``, is an error here, and is left out in ``fields``.
    """
    entry = method_named(method)
    asked = _overrides_for(overrides or {}, method)
    given = {**fields, **asked}
    resolved = resolve_scheme(method, scheme) if isinstance(scheme, str) else scheme
    values = {**_official_values(entry), **_norm_fields(entry, resolved, given), **given}
    for name, used in _used(values).items():
        if not used and name not in asked:
            values.pop(name, None)
    return RunSpec.from_flat({"method": method, **values})


def _used(values: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether fields that belong to the value of another one have an effect."""
    sgd, cosine = values["optimizer"] == "sgd", values["schedule"] == "cosine"
    return {
        "milestones": values["schedule"] == "step",
        "cosine_arc": cosine,
        "lars_exclude": values["optimizer"] == "lars",
        "lars_rate": values["optimizer"] == "lars",
        "nesterov": sgd and bool(values["sgd_momentum"]),
        "decay_exempts_vectors": sgd,
        "student_proxy_momentum": keeps_statistics(values["student_norm"]),
        "device_statistics": keeps_statistics(values["student_norm"]),
    }


def _overrides_for(overrides: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the overrides that apply to a method; ``METHOD.FIELD`` takes precedence over ``FIELD``."""
    general = {name: value for name, value in overrides.items() if "." not in name}
    dotted = {tuple(name.split(".", 1)): value for name, value in overrides.items() if "." in name}
    for owner, _ in dotted:
        if owner not in METHODS:
            raise unknown("method", owner, METHODS)
    return {**general, **{name: value for (owner, name), value in dotted.items() if owner == method}}


def _official_values(entry: Method[Any]) -> dict[str, Any]:
    """Return the official values of the optimizer's fields and of the method's own."""
    own = {name: field.default for name, field in entry.section.model_fields.items() if name != "name"}
    return {**{name: getattr(entry.optim, name) for name in type(entry.optim).model_fields}, **own}


def _norm_fields(entry: Method[Any], scheme: Scheme, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scheme's fields, without those that have no effect with the norms in ``given``."""
    values: dict[str, Any] = {"student_norm": scheme.student, "student_proxy_momentum": scheme.student_proxy_momentum}
    if not entry.teacher:
        return values
    values["teacher_norm"] = scheme.teacher
    policy = TEACHER_NORMS.get(given.get("teacher_norm", scheme.teacher))
    if policy is not None and policy.averages_statistics:
        values["eman_momentum"] = scheme.eman_momentum
    if policy is not None and policy.collects:
        values["teacher_proxy_momentum"] = scheme.teacher_proxy_momentum
    return values
