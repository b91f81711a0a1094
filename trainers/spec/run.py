"""The specification of a training run, and its key.

The key hashes every field that can change the result and nothing else. Workers, paths and addresses are not part of it,
so a run has the same key on a laptop and on a cluster. Fields that say how a run is computed
(:class:`~eman.trainers.spec.sections.ExecutionSpec`) are not hashed.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, SerializeAsAny, model_validator

from eman.platform.errors import UserError, unknown
from eman.trainers.backbones.measures import Measures
from eman.trainers.backbones.registry import BACKBONES, backbone_named
from eman.trainers.data import catalog, names
from eman.trainers.data.known import KNOWN
from eman.trainers.data.own import OWN
from eman.trainers.methods import momentum as schedules
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import METHODS, method_named
from eman.trainers.norm.schemes import STUDENT_NORMS, TEACHER_NORMS
from eman.trainers.spec.method import LabelledSection, MethodSection, TeacherSection
from eman.trainers.spec.section import Section, digest
from eman.trainers.spec.sections import PROXY_MOMENTUM, DataSpec, ExecutionSpec, NormSpec, OptimSpec, keeps_statistics

#: Raise by one when a change of code changes the results of runs with unchanged fields by more than rounding.
TRAINING_VERSION = 3

Precision = Literal["bf16", "fp16", "float32", "float64"]


class NetworkSpec(Section):
    """The backbone, its precision, and its initial weights."""

    backbone: str = "resnet50"
    """Name of the backbone, the network without its heads: a registered one, timm:NAME or torchvision:NAME; with
    -small, ResNets have a stem for small images."""
    precision: Precision = "float32"
    """Precision of both networks: bf16 and fp16 by autocast (fp16 with loss scaling), float32 and float64
    throughout."""
    init: "RunSpec | None" = None
    """The run whose backbone this one starts from."""
    source: Annotated[str | None, Field(max_length=200)] = None
    """SHA-256 prefix of the imported checkpoint; none for a run trained here."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone_named(self.backbone)
        if self.init is not None and self.init.network.backbone != self.backbone:
            raise UserError(
                f"backbone is {self.backbone!r}, and that of the initial run is {self.init.network.backbone!r}; the "
                f"two must be the same."
            )
        return self


class Used(NamedTuple):
    """An entry that a run uses: its kind, its version, and the module that registered it, empty for a built-in one."""

    kind: str
    version: int
    module: str


class RunSpec(Section):
    """One training run, as typed sections. Flat names (``lr``, ``queue``) are unique over all sections of a run."""

    # Below 2**32, so that every number derived from it fits into 64 bits.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in training: initial weights, MoCo's queue, sample order, augmentations, ShuffleBN. It
    does not choose images: see images, held_out and label_set."""
    monitor_every: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Epochs between measurements of held-out accuracy, by which the best epoch is selected."""
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
        self._check_images()
        self._check_norms()
        if isinstance(self.method, TeacherSection):
            joint = self.norm.teacher is not None and self.norm.teacher.joint
            if not joint or not keeps_statistics(self.norm.student_norm):
                self.method.drop("average_student")
            if joint and not self.method.average_student:
                self.method.drop("momentum")  # there is no second network
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
        if parts > 1 and (STUDENT_NORMS[self.norm.student_norm].sync or self.norm.device_statistics == "mean"):
            raise UserError(
                f"accumulate is {parts}, and student_norm {self.norm.student_norm!r} with device_statistics "
                f"{self.norm.device_statistics!r} needs all devices at once; give student_norm bn with "
                f"device_statistics device0, or leave accumulate out and take more workers."
            )

    def _check_images(self) -> None:
        method = self.method
        drawn = method if isinstance(method, LabelledSection) and method.label_index is None else None
        catalog.check_fits(
            self.data.dataset,
            images=self.data.images,
            held_out=self.data.held_out,
            label_fraction=None if drawn is None or drawn.label_count else drawn.label_fraction,
            label_count=None if drawn is None else drawn.label_count,
            image_size=self.data.image_size,
        )
        if self.method.crop_padding is not None and catalog.is_cropped_when_read(
            self.data.dataset, self.data.image_size
        ):
            raise UserError(
                f"crop_padding is {self.method.crop_padding}, which moves images of one size, and those of "
                f"{self.data.dataset} are cropped to image_size when they are read; leave one of the two out."
            )

    def _check_norms(self) -> None:
        """Refuse a backbone without batch norms, unless its own norms are those of the scheme."""
        own = self.backbone_measures.norms
        if "batch" in own or self.norm.student_norm in own:
            return
        which = f"its norms are {', '.join(own)}" if own else "it has no norms"
        way = f"give student_norm {' or '.join(own)} (--scheme {own[0]})" if own else "give a backbone with norms"
        raise UserError(
            f"backbone is {self.network.backbone!r}, which has no batch norms ({which}), and student_norm "
            f"{self.norm.student_norm!r} stands in their place; {way}{', or another backbone' if own else ''}."
        )

    @property
    def backbone_measures(self) -> Measures:
        """Width, size and norms of the backbone, for the data set's images as far as they are known."""
        sizes = KNOWN.get(self.data.dataset)
        size = self.data.image_size or (sizes.pixels if sizes else None)
        return backbone_named(self.network.backbone).measures(sizes.channels if sizes else 3, size)

    @property
    def has_teacher_network(self) -> bool:
        """Whether there is a second network to evaluate: a teacher, or an average of the student."""
        teacher, method = self.norm.teacher, self.method
        return teacher is not None and (not teacher.joint or getattr(method, "average_student", False))

    @property
    def entry(self) -> Method[Any]:
        """The method's entry."""
        return method_named(self.method.name)

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that identify this run."""
        return digest({"training_version": TRAINING_VERSION, **self._decisive()})

    @property
    def used(self) -> tuple["Used", ...]:
        """The entries whose code the run uses."""
        student, teacher, backbone = self.norm.student_norm, self.norm.teacher_norm, self.network.backbone
        found = [
            Used("method", self.entry.version, METHODS.origin(self.method.name)),
            Used("student_norm", STUDENT_NORMS[student].version, STUDENT_NORMS.origin(student)),
            Used("backbone", backbone_named(backbone).version, BACKBONES.origin(backbone)),
        ]
        if own := OWN.get(self.data.dataset):
            found.append(Used("dataset", own.version, OWN.origin(own.name)))
        if teacher is not None:
            found.append(Used("teacher_norm", TEACHER_NORMS[teacher].version, TEACHER_NORMS.origin(teacher)))
        return tuple(found)

    def _decisive(self) -> dict[str, Any]:
        """Return the flat fields that can change the result, including those of the initial run."""
        fields = {name: value for name, value in self.flat().items() if name not in ExecutionSpec.model_fields}
        fields["dataset"] = names.identity(self.data.dataset)
        if versions := {entry.kind: entry.version for entry in self.used if entry.version != 1}:
            fields["versions"] = versions
        return fields if self.network.init is None else {**fields, "init": self.network.init._decisive()}

    @property
    def lineage(self) -> tuple["RunSpec", ...]:
        """The chain of runs that start from each other, from the first to this one."""
        return (*(self.network.init.lineage if self.network.init else ()), self)

    def flat(self) -> dict[str, Any]:
        """Return all fields as plain values by flat name, except those that are ``None``, or ``False`` by default."""
        fields: dict[str, Any] = {"method": self.method.name}
        for part in (self.data, self.network, self.norm, self.optim, self.method, self, self.execution):
            for name, field in type(part).model_fields.items():
                value = getattr(part, name)
                if name == "name" or (isinstance(value, Section) and part is self):
                    continue
                if value is not None and not (value is False and field.default is False):
                    fields[name] = value.flat() if isinstance(value, RunSpec) else value
        return fields

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Make a specification from flat fields: the inverse of :meth:`flat`."""
        if "method" not in fields:
            raise UserError("the method is missing; give method=NAME.")
        entry = method_named(str(fields["method"]))
        sections = section_names(entry)
        values: dict[str, dict[str, Any]] = {name: {} for name in ("", *SECTIONS, "method")}
        for name, value in _canonical(fields, entry).items():
            if name == "method":
                continue
            if name not in sections:
                raise _unknown_field(entry, name, sections)
            values[sections[name]][name] = _plain(name, value)
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
    """Normalize fields that describe the same run in different ways, so that it has one key."""
    values = dict(fields)
    policy = TEACHER_NORMS.get(values.get("teacher_norm") or "")
    if policy is None:
        return values
    if policy.collects and values.get("teacher_proxy_momentum") is None:
        values["teacher_proxy_momentum"] = PROXY_MOMENTUM
    if policy.averages_statistics and entry.momentum is schedules.constant and "momentum" in entry.section.model_fields:
        momentum = values.get("momentum", entry.section.model_fields["momentum"].default)
        if values.get("eman_momentum") == momentum:
            del values["eman_momentum"]  # the default
    return values


def _unknown_field(entry: Method[Any], name: str, sections: Mapping[str, str]) -> UserError:
    if name == "name" or not any(name in other.section.model_fields for other in METHODS.values()):
        return unknown("field", name, sections)
    own = [field for field, section in sections.items() if section == "method"]
    return UserError(f"{name} is not a field of {entry.name}; its own fields are: {', '.join(own)}.")


def _plain(name: str, value: Any) -> Any:
    """Restore a value from its plain form in :meth:`RunSpec.flat` or JSON."""
    if name == "init" and isinstance(value, Mapping):
        return RunSpec.from_flat(value)
    return tuple(value) if isinstance(value, list) else value
