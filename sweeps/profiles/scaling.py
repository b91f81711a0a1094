"""The EMA scaling rule: the paper's momenta at another batch, or in a shorter run."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from eman.sweeps.work import steps
from eman.trainers.spec.build import make_spec
from eman.trainers.spec.method import TeacherSection
from eman.trainers.spec.run import RunSpec

#: ``none``: the profile's own momenta. ``batch``, ``run``: the paper's, scaled; see :func:`exponent`.
EmaScaling = Literal["none", "batch", "run"]

_TO = {"batch": "the batch", "run": "the run's length"}


def exponent(spec: RunSpec, rule: EmaScaling) -> float:
    r"""Return the exponent k of the rule :math:`m \to m^k` (Busbridge et al., arXiv 2307.13813).

    ``batch``: k is the run's batch divided by the paper's, so an average remembers as many images as the paper's.
    ``run``: k is the paper's number of steps divided by the run's, so it remembers the same share of the run. For runs
    over equally many images the two agree. The paper's run is that of Table 1.
    """
    original = make_spec(spec.method.name, "default", {})
    if rule == "batch":
        return spec.method.images_per_step / original.method.images_per_step
    return steps(original) / steps(spec)


def scaled_run(spec: RunSpec, rule: EmaScaling, overrides: Mapping[str, Any]) -> RunSpec:
    """Return a run with the paper's momenta m of Eqs. (1) and (9), scaled, except those that ``overrides`` set."""
    if rule == "none" or not isinstance(spec.method, TeacherSection):
        return spec
    given = {name.rpartition(".")[2] for name in overrides}
    momenta = {"momentum": spec.method.momentum, "eman_momentum": spec.norm.eman_momentum}
    power = exponent(spec, rule)
    return spec.replace(**{n: _rounded(m**power) for n, m in momenta.items() if m is not None and n not in given})


def note(runs: Iterable[RunSpec], rule: EmaScaling) -> str:
    """Return a note on the momenta of Eq. (1) that the rule gave; empty without any."""
    values: dict[str, None] = {}
    for spec in runs:
        teacher = spec.norm.teacher
        if rule != "none" and isinstance(spec.method, TeacherSection) and teacher is not None and not teacher.joint:
            paper = type(spec.method).model_fields["momentum"].default
            power = exponent(spec, rule)
            values[f"{spec.entry.title} {paper:g} becomes {spec.method.momentum:g} (k = {power:.3g})"] = None
    if not values:
        return ""
    return (
        f"The paper's momenta m, scaled to {_TO[rule]} as m^k by the EMA scaling rule (arXiv 2307.13813): "
        f"{', '.join(values)}. Momenta that a row names are scaled in the same way."
    )


def _rounded(momentum: float) -> float:
    """Round 1 - m to three digits: a rounding of m itself would change how much an average remembers."""
    return round(1 - float(f"{1 - momentum:.3g}"), 12)
