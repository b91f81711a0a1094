"""What decides a run's result, and its key.

A key is a hash over every field that can change the result, and over nothing else: workers, paths and addresses are
absent, so a run is the same run on a laptop and on a cluster. A field that only some methods have counts only for them.
Fields that say how a run is computed (:class:`~eman.trainers.spec.sections.ExecutionSpec`) are not hashed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from pydantic import Field, SerializeAsAny, model_validator

from eman.platform.errors import UserError, unknown
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.methods import momentum as schedules
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import TEACHER_NORMS
from eman.trainers.spec.method import MethodSection, TeacherSection
from eman.trainers.spec.section import Section
from eman.trainers.spec.sections import PROXY_MOMENTUM, DataSpec, ExecutionSpec, NormSpec, OptimSpec

#: Raised by one whenever a change of code changes the numbers of a run with unchanged fields by more than rounding.
TRAINING_VERSION = 2

Precision = Literal["bf16", "fp16", "float32", "float64"]


class NetworkSpec(Section):
    """The backbone, its precision, and what it starts from."""

    backbone: Annotated[str, Field(description="Name of the feature extractor.")] = "resnet50"
    precision: Annotated[
        Precision, Field(description="Precision of both networks: bf16 and fp16 by autocast, the others throughout.")
    ] = "float32"
    init: Annotated["RunSpec | None", Field(description="The run whose backbone this one starts from.")] = None
    source: Annotated[
        str | None,
        Field(max_length=200, description="Digest of the file that the network was imported from; none: trained here."),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone_named(self.backbone)
        if self.init is not None and self.init.network.backbone != self.backbone:
            raise UserError(
                f"backbone is {self.backbone!r}, and the run to start from has {self.init.network.backbone!r}; the two "
                f"must be the same."
            )
        return self


class RunSpec(Section):
    """One training run, as typed sections. Flat names (``lr``, ``queue``) are unique over all sections of a run.

    Raises:
        UserError: A field's value is not allowed, or two fields contradict each other.
    """

    # Below 2**32, so that every number derived from it fits into 64 bits.
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of initial weights, order and views.")] = 0
    monitor_every: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="Epochs between two measurements, which decide the best epoch."),
    ] = 5
    data: DataSpec
    network: NetworkSpec
    norm: NormSpec
    optim: OptimSpec
    method: SerializeAsAny[MethodSection]
    execution: ExecutionSpec

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_teacher()
        self._check_devices()
        return self

    def _check_teacher(self) -> None:
        method, norm = self.method.name, self.norm.teacher_norm
        if self.entry.teacher and norm is None:
            raise UserError(
                f"teacher_norm is none, and {method} has a teacher; give one of {', '.join(TEACHER_NORMS)}."
            )
        if not self.entry.teacher and norm is not None:
            raise UserError(f"teacher_norm is {norm!r}, and {method} has no teacher; leave it out.")

    def _check_devices(self) -> None:
        devices, parts = self.norm.devices, self.execution.accumulate or 1
        for stream, size in self.method.batches().items():
            name = "batch" if stream == "unlabelled" else f"{stream}_batch"
            if size % devices:
                raise UserError(
                    f"{name} is {size}, which {devices} devices do not divide; give a multiple of {devices}, or "
                    f"another number of devices."
                )
        if devices % parts:
            raise UserError(
                f"accumulate is {parts}, which does not divide the run's {devices} devices, none of which can be "
                f"split; give a divisor of {devices}."
            )
        if parts > 1 and (self.norm.student_norm == "syncbn" or self.norm.device_statistics == "mean"):
            raise UserError(
                f"accumulate is {parts}, and student_norm {self.norm.student_norm!r} with device_statistics "
                f"{self.norm.device_statistics!r} needs all devices at once; give student_norm bn with "
                f"device_statistics device0, or leave accumulate out and take more workers."
            )

    @property
    def entry(self) -> Method[Any]:
        """The method's entry."""
        return method_named(self.method.name)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this run and for no other."""
        return _digest({"training_version": TRAINING_VERSION, **self._decisive()})

    def _decisive(self) -> dict[str, Any]:
        """The flat fields that decide the result, those of the run to start from included."""
        fields = {name: value for name, value in self.flat().items() if name not in ExecutionSpec.model_fields}
        return fields if self.network.init is None else {**fields, "init": self.network.init._decisive()}

    @property
    def lineage(self) -> tuple["RunSpec", ...]:
        """The runs that must exist before this one, the first one first, and this one."""
        return (*(self.network.init.lineage if self.network.init else ()), self)

    def flat(self) -> dict[str, Any]:
        """Return all fields by flat name as plain values; those that are ``None`` or ``False`` are left out."""
        fields: dict[str, Any] = {"method": self.method.name}
        for part in (self.data, self.network, self.norm, self.optim, self.method, self, self.execution):
            for name in type(part).model_fields:
                value = getattr(part, name)
                if name != "name" and not (isinstance(value, Section) and part is self):
                    fields[name] = value.flat() if isinstance(value, RunSpec) else value
        return {name: value for name, value in fields.items() if value is not None and value is not False}

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Make a specification of flat fields: the inverse of :meth:`flat`.

        Raises:
            UserError: A field is unknown or its value is not allowed, or two fields contradict each other.
        """
        if "method" not in fields:
            raise UserError("the method is missing; give method=NAME.")
        entry = method_named(fields["method"])
        sections = section_names(entry)
        values: dict[str, dict[str, Any]] = {name: {} for name in ("", *SECTIONS, "method")}
        for name, value in _canonical(fields, entry).items():
            if name == "method":
                continue
            if name not in sections:
                raise unknown(f"field of {entry.name}", name, sections)
            values[sections[name]][name] = _plain(value)
        made: dict[str, Any] = {name: section(**values[name]) for name, section in SECTIONS.items()}
        return cls(**values[""], **made, method=entry.section(**values["method"]))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some flat fields changed."""
        return self.from_flat({**self.flat(), **changes})


#: The shared sections of a run by name.
SECTIONS: dict[str, type[Section]] = {
    "data": DataSpec,
    "network": NetworkSpec,
    "norm": NormSpec,
    "optim": OptimSpec,
    "execution": ExecutionSpec,
}


def section_names(entry: Method[Any]) -> dict[str, str]:
    """Return the section of each flat field of a method's run; that of a run's own fields is ``""``."""
    shared = {name: key for key, section in SECTIONS.items() for name in section.model_fields}
    own = dict.fromkeys((name for name in entry.section.model_fields if name != "name"), "method")
    return {"seed": "", "monitor_every": "", **shared, **own}


def _canonical(fields: Mapping[str, Any], entry: Method[Any]) -> dict[str, Any]:
    """Give one form to fields that describe the same run, so that it has one key."""
    values = dict(fields)
    policy = TEACHER_NORMS.get(values.get("teacher_norm") or "")
    if policy is not None and policy.collects and values.get("teacher_proxy_momentum") is None:
        values["teacher_proxy_momentum"] = PROXY_MOMENTUM
    if issubclass(entry.section, TeacherSection) and entry.momentum is schedules.constant:
        momentum = values.get("momentum", entry.section.model_fields["momentum"].default)
        if policy is not None and policy.averages_statistics and values.get("eman_momentum") == momentum:
            del values["eman_momentum"]  # the default
    return values


def _plain(value: Any) -> Any:
    """Turn what JSON makes of a value back into it."""
    if isinstance(value, Mapping):
        return RunSpec.from_flat(value)
    return tuple(value) if isinstance(value, list) else value


def _digest(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


EVALUATION_VERSION = 1
NETWORKS = ("student", "teacher")
SELECTIONS = ("last", "best")
VIEWS = ("cached", "augmented")


@dataclass(frozen=True, kw_only=True)
class _Spec:
    def fields(self) -> dict[str, Any]:
        """The fields that count, by name: those that are not ``None`` or ``False``; plain values, also inside."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            k: v.fields() if isinstance(v, _Spec) else v for k, v in found.items() if v is not None and v is not False
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`fields`; raises :class:`UserError` on a field that does not exist."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in names:
                raise unknown("field", name, names)
        return cls(**{k: cls.from_fields(v) if isinstance(v, Mapping) else v for k, v in fields.items()})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class EvalSpec(_Spec):
    """An evaluation of one training run (Section 5.2). Fields that default to ``None`` are those of single protocols,
    whose entries in ``eman.evaluation.protocols.registry`` hold their values.

    Raises:
        UserError: A field is out of its range.
    """

    run: str  # key of the training run
    dataset: str | None = None  # what it is evaluated on; None: what it was trained on
    protocol: str = "linear"
    network: str = "student"
    selection: str = "last"
    seed: int = 0
    # linear, finetune
    lr: float | None = None  # linear: the classifier's; finetune: the encoder's
    head_lr: float | None = None  # finetune: the classifier's
    epochs: int | None = None
    milestones: tuple[float, ...] | None = None
    batch: int | None = None
    weight_decay: float | None = None  # finetune
    label_fraction: float | None = None
    label_sets: int | None = None  # and lowshot
    label_index: str | None = None  # index files that list the labelled images, in place of the label sets
    views: str | None = None  # linear: of "cached" features, or of "augmented" images
    crop_min: float | None = None  # smallest share of the image that a random resized crop may take
    # knn
    k: int | None = None
    temperature: float | None = None  # None: every neighbour has one vote
    # retrieval
    top: int | None = None
    # lowshot
    shots: int | None = None

    def __post_init__(self) -> None:
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(self.milestones))
        for name in ("lr", "head_lr", "epochs", "batch", "label_sets", "k", "temperature", "top", "shots"):
            _positive(name, getattr(self, name))
        for name in ("label_fraction", "crop_min"):
            _share(name, getattr(self, name), positive=True)
        for name, allowed in (("network", NETWORKS), ("selection", SELECTIONS), ("views", VIEWS)):
            if getattr(self, name) is not None and getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this evaluation and for no other."""
        return _digest({"evaluation_version": EVALUATION_VERSION, **self.fields()})


def parse_eval_fields(pairs: list[str], cls: type[_Spec]) -> dict[str, Any]:
    """Turns ``["epochs=2", "lr=0.1"]`` into typed fields of ``cls``.

    Raises:
        UserError: A pair without ``=``, an unknown field, or a value of another type.
    """
    hints = get_type_hints(cls)
    allowed = [f.name for f in dataclasses.fields(cls)]
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r}: give FIELD=VALUE, for example --set epochs=2.")
        if name not in allowed:
            raise unknown("field", name, allowed)
        fields[name] = _parse(name, text, hints[name])
    return fields


#: What a field that is none of the plain kinds wants.
_SEVERAL = "numbers with commas between them"


def _parse(name: str, text: str, hint: Any) -> Any:
    options = [t for t in get_args(hint) if t is not type(None)] or [hint]
    if text.lower() == "none" and type(None) in get_args(hint):
        return None
    kind = options[0]
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        return tuple(float(part) for part in text.split(","))
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        raise UserError(f"{name} is {text!r}; it must be {wanted.get(kind, _SEVERAL)}.") from None


def _positive(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}; it must be greater than 0.")


def _share(name: str, value: float | None, *, positive: bool = False) -> None:
    if value is not None and not (0 <= value <= 1 and (value > 0 or not positive)):
        raise UserError(f"{name} is {value}; it must lie {'above 0 and at most' if positive else 'between 0 and'} 1.")
