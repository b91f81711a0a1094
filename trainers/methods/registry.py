"""The methods as data. Whatever differs between them stands in an entry here or in the method's own file, so that the
loop asks no method for its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from eman.platform.errors import UserError, named
from eman.trainers import optim
from eman.trainers.methods import byol, fixmatch, moco, supervised
from eman.trainers.methods.criterion import Criterion
from eman.trainers.norm.schemes import SCHEMES, Scheme, check_names, scheme_named
from eman.trainers.spec.run import RunSpec

#: Where a view's images come from and how they are changed: (stream, view).
View = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A student-teacher method.

    Attributes:
        title: The paper's name.
        fields: The RunSpec fields that only some methods use, with the official code's values for this one. A field
            that is absent here is none of this method's business, and giving it is an error.
        default_scheme: The scheme behind the row "default / default".
        views: Names for the (stream, view) pairs that a step needs.
        student: What the student sees: for each of its passes, the views put one after the other.
        teacher: What the teacher sees, likewise.
        teacher_moves: ``"between"``: after the student's pass and before the teacher's; ``"after"``: after
            the optimizer's step.
        momentum: How m of Eq. (1) changes over a run.
        heads: What follows the backbone, by name and in order.
        followed: The part of the student that the teacher copies.
        criterion: Loss and its state.
        classifier: Whether the student ends in class logits; its accuracy is then measured directly.
    """

    title: str
    fields: Mapping[str, Any]
    default_scheme: str
    views: Mapping[str, View]
    student: tuple[tuple[str, ...], ...]
    teacher: tuple[tuple[str, ...], ...]
    teacher_moves: str = "after"
    momentum: optim.MomentumSchedule = optim.constant_momentum
    heads: Callable[[RunSpec, int, int], dict[str, nn.Module]]
    followed: Callable[[nn.Sequential], nn.Sequential] = lambda student: student
    criterion: Callable[[RunSpec, torch.Generator], Criterion]
    classifier: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that a step reads, in a fixed order."""
        return tuple(sorted({stream for stream, _ in self.views.values()}))


#: Every method by name. A new one is one entry, and a file with its loss.
METHODS = {
    # Section 5: 64 labelled and 320 unlabelled images a step, lr 0.03; threshold and weight from the official code.
    "fixmatch": Method(
        title="FixMatch",
        fields={
            "label_fraction": 0.1,
            "label_set": 0,
            "label_index": None,
            "labelled_batch": 64,
            "batch": 320,
            "threshold": 0.7,
            "unlabelled_weight": 10.0,
            "strong_ops": 2,
            "momentum": 0.999,
            "crop_min": 0.08,
            "schedule": "step",
            "milestones": (0.6, 0.8),
        },
        default_scheme="default",
        views={"labelled": ("labelled", "weak"), "strong": ("unlabelled", "strong"), "weak": ("unlabelled", "weak")},
        student=(("labelled", "strong"),),
        teacher=(("weak",),),
        heads=supervised.classifier,
        criterion=fixmatch.FixMatch,
        classifier=True,
    ),
    # Official MoCo v2 as in the README of the official code.
    "moco": Method(
        title="MoCo",
        fields={
            "queue": 65536,
            "temperature": 0.2,
            "projection_dim": 128,
            "hidden_dim": 2048,
            "momentum": 0.999,
            "blur_max": 2.0,
        },
        default_scheme="shufflebn",
        views={"query": ("unlabelled", "moco"), "key": ("unlabelled", "moco")},
        student=(("query",),),
        teacher=(("key",),),
        teacher_moves="between",
        heads=moco.projector,
        criterion=moco.MoCo,
    ),
    # Section 5: batch 512, lr 0.9 (1.8 in the README's command, which divides by 256 images); 50 epochs in Table 1.
    "byol": Method(
        title="BYOL",
        fields={
            "projection_dim": 256,
            "hidden_dim": 4096,
            "momentum": 0.98,
            "blur_max": 2.0,
            "batch": 512,
            "optimizer": "lars",
            "lr": 1.8,
            "weight_decay": 1e-6,
            "epochs": 50,
        },
        default_scheme="syncbn",
        views={"first": ("unlabelled", "byol_first"), "second": ("unlabelled", "byol_second")},
        student=(("first",), ("second",)),
        teacher=(("first",), ("second",)),
        momentum=optim.rising_momentum,
        heads=byol.projector_and_predictor,
        followed=byol.without_predictor,
        criterion=byol.BYOL,
    ),
    "supervised": Method(
        title="Supervised",
        fields={
            "label_fraction": 0.1,
            "label_set": 0,
            "label_index": None,
            "labelled_batch": 256,
            "crop_min": 0.08,
            "schedule": "step",
            "milestones": (0.6, 0.8),
        },
        default_scheme="default",
        views={"labelled": ("labelled", "weak")},
        student=(("labelled",),),
        teacher=(),
        heads=supervised.classifier,
        criterion=supervised.Supervised,
        classifier=True,
    ),
}

#: Fields that belong to some methods only. Naming one that a method's entry lacks is an error.
_SPECIAL = (
    "label_fraction",
    "label_set",
    "label_index",
    "labelled_batch",
    "threshold",
    "unlabelled_weight",
    "strong_ops",
    "queue",
    "temperature",
    "hidden_dim",
    "projection_dim",
    "blur_max",
    "momentum",
)


def method_named(name: str) -> Method:
    """The entry of that name; raises :class:`~eman.platform.errors.UserError` if there is none."""
    return named("method", name, METHODS)


def resolve_scheme(method: str, scheme: str) -> Scheme:
    """The scheme that a name stands for in a method: ``default`` is a scheme of its own only in FixMatch."""
    entry = method_named(method)
    return scheme_named(entry.default_scheme if scheme == "default" else scheme)


def make_spec(method: str, scheme: str | Scheme, fields: Mapping[str, Any]) -> RunSpec:
    """A run's specification: the method's official values, then ``fields``, then the scheme.

    Args:
        method: A name in :data:`METHODS`.
        scheme: A name in :data:`~eman.trainers.norm.schemes.SCHEMES`, or a scheme.
        fields: RunSpec fields that override the official values. Norm fields here override the scheme's.

    Raises:
        UserError: A name is unknown, a field is not the method's, or the result is inconsistent.
    """
    entry = method_named(method)
    resolved = resolve_scheme(method, scheme) if isinstance(scheme, str) else scheme
    for name in fields:
        if name in _SPECIAL and name not in entry.fields and fields[name] is not None:
            mine = [field for field in _SPECIAL if field in entry.fields]
            raise UserError(f"{name} is not a field of {method}; its own fields are: {', '.join(mine)}.")
    norm: dict[str, Any] = {
        "student_norm": resolved.student,
        "teacher_norm": resolved.teacher,
        "student_proxy_momentum": resolved.student_proxy_momentum,
        "teacher_proxy_momentum": resolved.teacher_proxy_momentum,
        "eman_momentum": resolved.eman_momentum,
    }
    merged = {**entry.fields, **norm, **fields}
    if merged.get("schedule", "cosine") == "cosine":
        merged["milestones"] = None
    if not entry.teacher:  # no teacher: its norm cannot change the result
        merged |= {"teacher_norm": None, "teacher_proxy_momentum": None, "eman_momentum": None}
    elif (
        merged["eman_momentum"] is not None
        and merged["eman_momentum"] == merged.get("momentum")
        and entry.momentum is optim.constant_momentum
    ):
        merged["eman_momentum"] = None  # the same run by another name
    spec = RunSpec(method=method, **merged)
    check_names(spec.student_norm, spec.teacher_norm or "student")
    if "labelled" in entry.streams and spec.labelled_batch is None:
        raise UserError(f"{method} needs labelled_batch.")
    return spec


def scheme_of(spec: RunSpec) -> Scheme:
    """The scheme that a specification's norm fields stand for, with its title."""
    made = Scheme(
        title="",
        student=spec.student_norm,
        teacher=spec.teacher_norm or "student",
        student_proxy_momentum=spec.student_proxy_momentum,
        teacher_proxy_momentum=spec.teacher_proxy_momentum,
        eman_momentum=spec.eman_momentum,
    )
    for scheme in SCHEMES.values():
        if _same(scheme, made):
            return scheme
    title = {
        "eman": f"BN / EMAN (m={spec.eman_momentum:g})" if spec.eman_momentum is not None else "BN / EMAN",
        "student-pn": f"BN / student PN (α={spec.student_proxy_momentum:g})",
        "teacher-pn": f"BN / teacher PN (α={spec.teacher_proxy_momentum or 0:g})",
    }.get(made.teacher, f"{made.student} / {made.teacher}")
    return Scheme(**{**made.__dict__, "title": title})


def _same(a: Scheme, b: Scheme) -> bool:
    return {**a.__dict__, "title": ""} == {**b.__dict__, "title": ""}


def run_title(spec: RunSpec) -> str:
    """A readable name, for example ``moco · BN / EMAN · seed 0``."""
    start = f" · from {spec.init.method} {scheme_of(spec.init).title}" if spec.init else ""
    return f"{spec.method} · {scheme_of(spec).title}{start} · seed {spec.seed}"
