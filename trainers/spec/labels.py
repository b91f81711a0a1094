"""Display names of schemes and runs, for titles, tables and reports, and what the store records of a run.

Labels are computed from a run's own fields. A combination that is not in the paper's tables gets its own label, with
every momentum that differs from the default.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from eman.platform import modules
from eman.trainers.norm.colours import colour_of
from eman.trainers.norm.schemes import SCHEMES, STUDENT_NORMS, Move, Scheme
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import PROXY_MOMENTUM, NormSpec, keeps_statistics


def scheme_of(spec: RunSpec) -> Scheme:
    """Return the scheme of a run's norm fields; its title is :func:`scheme_label`."""
    norm = spec.norm
    made = Scheme(
        title=scheme_label(spec),
        student=norm.student_norm,
        teacher=norm.teacher_norm or "student",
        student_proxy_momentum=norm.student_proxy_momentum,
        teacher_proxy_momentum=norm.teacher_proxy_momentum,
        eman_momentum=norm.eman_momentum,
    )
    return next((scheme for scheme in SCHEMES.values() if scheme == made), made)


def scheme_label(spec: RunSpec) -> str:
    """Return the name of a run's scheme, for example ``SyncBN / EMAN (m=0.9)``, with the run's own momenta."""
    norm = spec.norm
    student = STUDENT_NORMS[norm.student_norm].title
    details = _details(norm)
    suffix = f" ({', '.join(details)})" if details else ""
    if norm.teacher is None:
        return f"{student}{suffix}"
    if norm.teacher.joint:
        plain = norm.student_norm == "bn" and not details
        return "default / default" if plain else f"{student} / default{suffix}"
    return f"{student} / {norm.teacher.title}{suffix}"


def scheme_colour(spec: RunSpec) -> str:
    """Return the colour of a run's scheme, the same at every scale; see :mod:`~eman.trainers.norm.colours`."""
    return colour_of(scheme_of(spec))


def _details(norm: NormSpec) -> list[str]:
    """Return the momenta to show in a label."""
    details = []
    if norm.eman_momentum is not None:
        details.append(f"m={norm.eman_momentum}")
    if norm.teacher_proxy_momentum is not None:
        details.append(f"α={norm.teacher_proxy_momentum}")
    if norm.teacher is not None and norm.teacher.statistics is Move.COPY:
        details.append(f"α={norm.student_proxy_momentum}")
    elif keeps_statistics(norm.student_norm) and norm.student_proxy_momentum != PROXY_MOMENTUM:
        details.append(f"student α={norm.student_proxy_momentum}")
    if norm.device_statistics != "device0":
        details.append("mean of devices")
    return details


def run_title(spec: RunSpec, fields: Sequence[str] = ()) -> str:
    """Return a run's title, for example ``BN / EMAN · lr 0.1 · MoCo · s0``, with the values of these fields.

    What differs within a method comes first, because lists of runs cut long names off at their end.
    """
    init = spec.network.init
    start = f" from {init.entry.title} {scheme_label(init)}" if init else ""
    values = [f"{name} {_value_text(spec, name)}" for name in fields]
    return " · ".join([scheme_label(spec), *values, f"{spec.entry.title}{start}", f"s{spec.seed}"])


def row_title(spec: RunSpec, title: str) -> str:
    """Return the title of a run without its method and seed."""
    return title.replace(f" · {spec.entry.title}", "", 1).removesuffix(f" · s{spec.seed}")


def run_titles(specs: Iterable[RunSpec]) -> dict[str, str]:
    """Return titles by key; runs that would share a title also show the fields in which they differ."""
    groups: dict[str, dict[str, RunSpec]] = defaultdict(dict)
    for spec in specs:
        groups[run_title(spec)][spec.key] = spec
    titles: dict[str, str] = {}
    for runs in groups.values():
        names = _distinguishing_fields(list(runs.values()))
        titles |= {key: run_title(spec, names) for key, spec in runs.items()}
    return titles


#: Fields to show first; others are shown only where these do not distinguish the runs.
_FIRST = ("backbone", "epochs", "label_fraction", "label_count", "lr")


def _distinguishing_fields(specs: Sequence[RunSpec]) -> list[str]:
    """Return the shortest prefix of the differing fields that distinguishes the runs."""
    flat = [{**spec.flat(), **({"init": spec.network.init.key} if spec.network.init else {})} for spec in specs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    differing = [name for name in names if len({str(fields.get(name)) for fields in flat}) > 1]
    ordered = sorted(differing, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    for count in range(len(ordered) + 1):
        if len({tuple(_value_text(spec, name) for name in ordered[:count]) for spec in specs}) == len(specs):
            return ordered[:count]
    return ordered


def _value_text(spec: RunSpec, name: str) -> str:
    """Return a field's value as shown in a label."""
    if name == "init":
        return run_title(spec.network.init) if spec.network.init else "none"
    value = spec.flat().get(name, "none")
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def about_run(spec: RunSpec) -> str:
    """Return a sentence about a run: method, scheme, network, data and length."""
    data = f"{spec.data.dataset}, {spec.data.images:,} images" if spec.data.images else spec.data.dataset
    return (
        f"{spec.entry.title} with {scheme_label(spec)}, {spec.network.backbone} on {data}, {spec.optim.epochs} epochs, "
        f"seed {spec.seed}."
    )


def record_params(spec: RunSpec) -> dict[str, Any]:
    """Return a run's parameters; ``init`` is the key of the run that it starts from."""
    start = spec.network.init
    return {**spec.flat(), **({"init": start.key} if start else {}), "scheme": scheme_label(spec)}


def record_tags(spec: RunSpec, profile: str) -> dict[str, str]:
    """Return the tags that identify a run to people."""
    return {
        "method": spec.entry.title,
        "scheme": scheme_label(spec),
        "profile": profile,
        "seed": str(spec.seed),
        "mlflow.runColor": scheme_colour(spec),
        "eman.network": "student",
        "eman.selection": "last",
        **modules.tags(entry.module for entry in spec.used),
    }
