"""What decides a result: the specification of a training run, of an evaluation, and their keys.

A key is a hash over every field that can change the result, and over nothing else: workers, paths and addresses are
absent, so a run is the same run on a laptop and on a cluster. Fields that a method does not use are ``None`` and do
not count, so a new field for one method leaves the keys of the others alone. Fields that say how a run is computed
(:data:`EXECUTION`) travel with its specification and leave its key alone.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args, get_type_hints

from eman.platform.errors import UserError, unknown

#: Raised by one whenever a change of code changes the numbers of a run with unchanged fields by more than rounding.
TRAINING_VERSION = 2
EVALUATION_VERSION = 1

DEVICE_STATISTICS = ("device0", "mean")
OPTIMIZERS = ("sgd", "lars")
LARS_EXCLUDES = ("vectors", "official")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("bf16", "fp16", "float32", "float64")
NETWORKS = ("student", "teacher")
SELECTIONS = ("last", "best")
VIEWS = ("cached", "augmented")

#: Fields of a run that change how it is computed and, up to rounding, not what comes out: no part of its key.
EXECUTION = ("channels_last", "compile", "accumulate", "recompute")


def _digest(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
class RunSpec(_Spec):
    """One training run. Defaults are the paper's or the official code's (ImageNet, ResNet-50).

    Raises:
        UserError: A field is out of its range, or two fields contradict each other.
    """

    method: str
    # Data
    dataset: str = "imagenet"
    image_size: int | None = None  # pixels a side of what the network sees of folders and shards; None: as they are
    images: int | None = None  # size of the stratified part of the training set that is used; None: all
    held_out: int = 0  # training images put aside, with labels, for choosing hyper-parameters
    seed: int = 0
    # Normalization: a scheme (trainers/norm.py), resolved
    student_norm: str = "bn"
    teacher_norm: str | None = None
    student_proxy_momentum: float = 0.9  # alpha of Eq. (4); PyTorch writes it as 0.1
    teacher_proxy_momentum: float | None = None
    eman_momentum: float | None = None  # m of Eq. (9); None: that of Eq. (1)
    devices: int = 8  # Section 5: 8 V100
    device_statistics: str = "device0"  # whose running statistics the student keeps: "device0" or "mean"
    statistics_passes: int = 0  # forward passes that set the statistics before the first step
    # Networks
    init: "RunSpec | None" = None  # the run whose student's backbone this one starts from (Section 5.3)
    source: str | None = None  # digest of the file that it was imported from; None: it was trained here
    backbone: str = "resnet50"
    precision: str = "float32"
    # Optimization
    epochs: int = 100
    warmup_epochs: float = 5.0  # Section 5.1
    batch: int = 256  # images a step (FixMatch: unlabelled images), over all devices
    optimizer: str = "sgd"
    lr: float = 0.03
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    lars_exclude: str | None = None  # what LARS neither decays nor adapts; None: "vectors"
    schedule: str = "cosine"
    schedule_unit: str = "epoch"  # the official code changes the rate once an epoch; short runs want "step"
    milestones: tuple[float, ...] | None = None  # "step": shares of the run after which the rate falls tenfold
    # Teacher
    momentum: float | None = None  # m of Eq. (1)
    # Views
    crop_min: float = 0.2  # smallest share of the image that a random resized crop may take
    blur_max: float | None = None  # largest sigma of the Gaussian blur, in pixels
    # FixMatch and supervised
    label_fraction: float | None = None
    label_set: int | None = None
    label_index: str | None = None  # an index file that lists the labelled images, in place of the label set
    labelled_batch: int | None = None
    threshold: float | None = None
    unlabelled_weight: float | None = None
    strong_ops: int | None = None
    # MoCo
    queue: int | None = None
    temperature: float | None = None
    # MoCo and BYOL
    hidden_dim: int | None = None
    projection_dim: int | None = None
    # Monitoring (it decides which epoch is "best")
    monitor_every: int = 5
    # Execution: no part of the key
    channels_last: bool = False  # memory format of networks and images; on a CPU those with batch norms have it anyway
    compile: bool = False  # torch.compile both networks
    accumulate: int | None = None  # parts, each of whole devices, in which a worker takes its batch; None: one
    recompute: bool = False  # keep no activations inside the backbone's blocks; compute them again going backward

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones) if self.milestones is not None else None)
        for name in (
            "image_size",
            "images",
            "devices",
            "batch",
            "labelled_batch",
            "epochs",
            "queue",
            "monitor_every",
            "hidden_dim",
            "projection_dim",
            "strong_ops",
            "accumulate",
        ):
            _positive(name, getattr(self, name))
        for name in ("lr", "temperature"):
            _positive(name, getattr(self, name))
        for name in (
            "momentum",
            "eman_momentum",
            "student_proxy_momentum",
            "teacher_proxy_momentum",
            "sgd_momentum",
            "threshold",
        ):
            _share(name, getattr(self, name))
        for name in ("label_fraction", "crop_min"):
            _share(name, getattr(self, name), positive=True)
        for name in (
            "held_out",
            "statistics_passes",
            "warmup_epochs",
            "weight_decay",
            "unlabelled_weight",
            "label_set",
            "seed",
            "blur_max",
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value}; it must be 0 or more.")
        for name, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("schedule_unit", ("epoch", "step")),
            ("device_statistics", DEVICE_STATISTICS),
        ):
            if getattr(self, name) not in allowed:
                raise unknown(name, str(getattr(self, name)), allowed)
        if self.lars_exclude is not None:
            if self.lars_exclude not in LARS_EXCLUDES:
                raise unknown("lars_exclude", self.lars_exclude, LARS_EXCLUDES)
            if self.optimizer != "lars":
                raise UserError(
                    f"lars_exclude is {self.lars_exclude!r}, and the optimizer is {self.optimizer!r}, which leaves "
                    f"nothing out; give optimizer lars, or lars_exclude none."
                )
            if self.lars_exclude == "vectors":
                object.__setattr__(self, "lars_exclude", None)  # the same run by another name
        if (self.accumulate or 1) > 1 and (self.student_norm == "syncbn" or self.device_statistics == "mean"):
            raise UserError(
                f"accumulate is {self.accumulate}, and student_norm {self.student_norm!r} with device_statistics "
                f"{self.device_statistics!r} needs all devices at once; give student_norm bn with device_statistics "
                f"device0, or leave accumulate out and take more workers."
            )
        if self.compile and self.recompute:
            raise UserError(
                "compile and recompute are both true, and a compiled network decides by itself what to compute again; "
                "leave one of them out."
            )
        for name in ("batch", "labelled_batch"):
            size = getattr(self, name)
            if size is not None and size % self.devices:
                raise UserError(
                    f"{name} is {size}, which {self.devices} devices do not divide; give a multiple of "
                    f"{self.devices}, or another number of devices."
                )
        if self.queue is not None and self.queue % self.batch:
            raise UserError(
                f"queue is {self.queue}, which the batch of {self.batch} does not divide; "
                f"give a multiple of {self.batch}."
            )
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs}, longer than the run of {self.epochs} epochs; "
                f"give at most {self.epochs}."
            )
        if self.init is not None and self.init.backbone != self.backbone:
            raise UserError(
                f"backbone is {self.backbone!r}, and the run to start from has {self.init.backbone!r}; the two must be "
                f"the same."
            )
        if (self.schedule == "step") != (self.milestones is not None):
            raise UserError(
                f"schedule is {self.schedule!r} and milestones are {self.milestones}; milestones belong to "
                f"schedule 'step', and 'step' needs them."
            )

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this run and for no other."""
        return _digest({"training_version": TRAINING_VERSION, **self._decisive()})

    def _decisive(self) -> dict[str, Any]:
        """The fields that decide the result, also inside."""
        found = {k: v for k, v in self.fields().items() if k not in EXECUTION}
        return found if self.init is None else {**found, "init": self.init._decisive()}

    @property
    def lineage(self) -> tuple["RunSpec", ...]:
        """The runs that have to be there before this one, the first one first, and this one."""
        return (*(self.init.lineage if self.init else ()), self)


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


def parse_fields(pairs: list[str], cls: type[_Spec] = RunSpec) -> dict[str, Any]:
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
    if kind is RunSpec:
        raise UserError(f"{name} cannot be set by hand: it is another run; a table's row says which.")
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
