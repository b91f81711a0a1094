"""The sections that all methods share. Defaults are the paper's or the official code's, for ImageNet.

Each class declares fields with their meaning, unit, range and source; its validators check how fields fit together.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from eman.platform.errors import UserError, unknown
from eman.trainers.data import names
from eman.trainers.norm.schemes import STUDENT_NORMS, TEACHER_NORMS, TeacherNorm
from eman.trainers.spec.section import Section

#: Teacher norms that average statistics by Eq. (9), and those that collect their own by Eq. (4).
_AVERAGING = " or ".join(name for name, norm in TEACHER_NORMS.items() if norm.averages_statistics)
_COLLECTING = " or ".join(name for name, norm in TEACHER_NORMS.items() if norm.collects)

#: Default momentum alpha of running statistics, Eq. (4). PyTorch's ``momentum`` is 1 - alpha = 0.1.
PROXY_MOMENTUM = 0.9

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


def keeps_statistics(student_norm: str | None) -> bool:
    """Return whether a student norm, by name, uses batch statistics and keeps running ones."""
    norm = STUDENT_NORMS.get(student_norm or "")
    return norm is not None and norm.keeps_statistics


class DataSpec(Section):
    """The images that a run is trained on."""

    dataset: Annotated[str, Field(max_length=1000)] = "imagenet"
    """Data set: a built-in name, the name of a folder of images or shards in the data folder, or the path or URI of
    such a folder."""
    image_size: Annotated[int | None, Field(ge=1, le=4096)] = None
    """Height and width of the network's input in pixels; none: the images' own size, which must then be the same for
    all."""
    images: Annotated[int | None, Field(ge=1, le=10**9)] = None
    """Training images to use: a class-balanced subset, the same for every seed; none: all that are not held out."""
    held_out: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Training images held out, with their labels, to select epochs and hyperparameters; 0: select on the test
    images."""

    @field_validator("dataset")
    @classmethod
    def _resolve(cls, name: str) -> str:
        """Turn a path into ``PATH@HASH``, so that a run's key changes with its images."""
        return names.resolve(name)


class NormSpec(Section):
    """How student and teacher normalize: norms, momenta, and the devices whose batches have statistics of their own."""

    student_norm: Annotated[
        str, Field(description=f"Normalization layer of the student: {', '.join(STUDENT_NORMS)}.")
    ] = "bn"
    teacher_norm: Annotated[
        str | None,
        Field(
            description=f"Normalization of the teacher: {', '.join(TEACHER_NORMS)}. With student "
            "there is no second network. None only for a method without a teacher."
        ),
    ] = None
    student_proxy_momentum: Share = PROXY_MOMENTUM
    """Momentum alpha of the student's running statistics, Eq. (4); PyTorch's momentum is 1 - alpha."""
    teacher_proxy_momentum: Annotated[
        Share | None,
        Field(
            description="Momentum alpha of the teacher's own running statistics, Eq. (4); for teacher_norm "
            f"{_COLLECTING} only, where none means {PROXY_MOMENTUM}."
        ),
    ] = None
    eman_momentum: Annotated[
        Share | None,
        Field(
            description=f"Momentum m of the averaged batch norm statistics, Eq. (9); for teacher_norm {_AVERAGING} "
            "only, where none means the momentum of the parameters."
        ),
    ] = None
    devices: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Devices (GPUs) of the recipe; under bn each normalizes its share of a batch by itself. The number of worker
    processes may differ. Section 5: 8."""
    device_statistics: Literal["device0", "mean"] = "device0"
    """Running statistics of the student: those of device 0, as under DDP, or the mean over devices."""
    statistics_passes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Batches whose plain average initializes the running statistics before the first step; 0, as in the official code:
    mean 0, variance 1."""

    @property
    def teacher(self) -> TeacherNorm | None:
        """The teacher's policy; ``None`` for a method without a teacher."""
        return None if self.teacher_norm is None else TEACHER_NORMS[self.teacher_norm]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.student_norm not in STUDENT_NORMS:
            raise unknown("student_norm", self.student_norm, STUDENT_NORMS)
        if self.teacher_norm is not None and self.teacher_norm not in TEACHER_NORMS:
            raise unknown("teacher_norm", self.teacher_norm, TEACHER_NORMS)
        if self.teacher is not None:
            self._check_teacher(self.teacher)
        self._check_effects()
        return self

    def _check_teacher(self, teacher: TeacherNorm) -> None:
        """Refuse norms of student and teacher that do not fit together."""
        batch_norms = tuple(name for name, norm in STUDENT_NORMS.items() if norm.keeps_statistics)
        if teacher.needs_batch_norms and self.student_norm not in batch_norms:
            raise UserError(
                f"teacher_norm is {self.teacher_norm!r}, which uses the student's batch statistics, and student_norm "
                f"is {self.student_norm!r}, which keeps none; give student_norm bn or syncbn."
            )
        allowed = batch_norms if teacher.norm in batch_norms else (teacher.norm,)
        if teacher.norm is not None and self.student_norm not in allowed:
            raise UserError(
                f"student_norm is {self.student_norm!r} and teacher_norm is {self.teacher_norm!r}, and the teacher "
                f"copies the student's layers; give student_norm {' or '.join(map(str, allowed))}, or another "
                f"teacher_norm."
            )
        if teacher.shuffle and self.devices == 1:
            raise UserError(
                f"teacher_norm is {self.teacher_norm!r}, which moves images between devices, and devices is 1; "
                f"give at least 2 devices, or another teacher_norm."
            )

    def _check_effects(self) -> None:
        """Refuse values without effect, which would only give the same run another key."""
        teacher, given = self.teacher, f"teacher_norm {self.teacher_norm or 'none'}"
        if teacher is None or not teacher.averages_statistics:
            self.refuse("eman_momentum", given, f"teacher_norm {_AVERAGING}")
        if teacher is None or not teacher.collects:
            self.refuse("teacher_proxy_momentum", given, f"teacher_norm {_COLLECTING}")
        if not keeps_statistics(self.student_norm):
            for name in ("student_proxy_momentum", "device_statistics"):
                self.refuse(name, f"student_norm {self.student_norm}", "student_norm bn or syncbn")


class OptimSpec(Section):
    """Number of epochs, optimizer, learning rate and its schedule."""

    epochs: Epochs = 100
    """Epochs to train: passes over the unlabelled images, or over the labelled ones if a method uses no others."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1_000_000)] = 5.0
    """Epochs of linear warm-up of the learning rate (Section 5.1)."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """Optimizer of the student: SGD with momentum, or LARS (eta 0.001)."""
    lr: Annotated[float, Field(gt=0, le=10_000)] = 0.03
    """Peak learning rate, after the warm-up; not scaled by the batch."""
    sgd_momentum: Share = 0.9
    """Momentum of SGD or LARS."""
    nesterov: bool = False
    """Use Nesterov's momentum; for optimizer sgd."""
    weight_decay: Annotated[float, Field(ge=0, le=1_000)] = 1e-4
    """Coefficient of weight decay (L2)."""
    decay_exempts_vectors: bool = False
    """Leave vectors (biases, and weights of norms) without weight decay; for optimizer sgd."""
    lars_exclude: Literal["vectors", "official"] | None = None
    """Parameters that LARS updates without weight decay and trust ratio: vectors (biases and norms; none means the
    same), or official, those that the official code selects by name."""
    lars_rate: Literal["outside", "inside"] | None = None
    """Where LARS multiplies by the learning rate: outside of the momentum buffer, as SGD does (none means the same), or
    inside, as the official code does. They differ while the rate changes, as in the warm-up."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Decay of the learning rate: cosine to 0 (see cosine_arc), or step, a division by 10 at each milestone."""
    cosine_arc: Annotated[float, Field(gt=0, le=0.5)] | None = None
    """With schedule cosine, the rate falls as cos(cosine_arc pi t) for t from 0 to 1, so that below 0.5 it ends above 0
    (FixMatch's paper: 7/16 = 0.4375); none: as (1 + cos(pi t)) / 2."""
    schedule_unit: Literal["epoch", "step"] = "epoch"
    """How often the decay advances: once per epoch, as in the official code, or at every step."""
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None, Field(max_length=100)] = None
    """Fractions of the epochs, increasing, at which schedule step divides the learning rate by 10."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs}, longer than the run of {self.epochs} epochs; "
                f"give at most {self.epochs}."
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise UserError(
                f"schedule is {self.schedule!r} and milestones are {_listed(self.milestones)}; milestones belong to "
                f"schedule 'step', and 'step' needs them."
            )
        if self.milestones and list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(f"milestones are {_listed(self.milestones)}; give increasing numbers.")
        self._check_effects()
        return self

    def _check_effects(self) -> None:
        """Refuse values without effect, which would only give the same run another key."""
        if self.optimizer != "lars":
            for name in ("lars_exclude", "lars_rate"):
                self.refuse(name, f"optimizer {self.optimizer!r}", "optimizer lars")
        if self.optimizer != "sgd":
            for name in ("nesterov", "decay_exempts_vectors"):
                self.refuse(name, f"optimizer {self.optimizer!r}", "optimizer sgd")
        if self.sgd_momentum == 0:
            self.refuse("nesterov", "sgd_momentum 0", "a momentum")
        if self.schedule != "cosine":
            self.refuse("cosine_arc", f"schedule {self.schedule!r}", "schedule cosine")
        if self.lars_exclude == "vectors":
            self.drop("lars_exclude")
        if self.lars_rate == "outside":
            self.drop("lars_rate")


class ExecutionSpec(Section):
    """How a run is computed. These fields change results by rounding only, so they are not part of the key."""

    channels_last: bool | None = None
    """Use channels-last memory. None: where it is faster."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    accumulate: Annotated[int | None, Field(ge=1, le=65_536)] = None
    """Parts into which each worker splits its batch to save memory, accumulating gradients; must divide the worker's
    devices. None: 1."""
    cuda_graph: bool | None = None
    """On a GPU, replay the operations of a step as one CUDA graph, which removes the time between them and reserves
    more memory. None: in runs of one worker on images of at most 64 pixels, but for fp16 and compile."""
    nondeterministic: bool = False
    """On a GPU, let cuDNN measure which algorithms are fastest; results then differ in the last bits from run to run,
    and a resumed run from an uninterrupted one."""
    recompute: bool = False
    """Recompute residual blocks in the backward pass to save memory (activation checkpointing)."""
    collapse_bound: Annotated[float, Field(ge=0, le=1)] = 0.004
    """End a run as failed if its train/feature_std stays below this; 0: never. Below 2**-8, bfloat16's rounding, the
    outputs of different images are the same. It changes no result of a run that is not ended."""
    collapse_patience: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Epochs in a row, after the warm-up, that train/feature_std must stay below collapse_bound."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile and self.cuda_graph:
            raise UserError("compile and cuda_graph are both true; leave one of them out.")
        if self.compile and self.recompute:
            raise UserError(
                "compile and recompute are both true, and a compiled network decides by itself what to compute again; "
                "leave one of them out."
            )
        return self

    @property
    def collapse_rule(self) -> str:
        """The bound and patience of collapse in one word, for the store."""
        return f"{self.collapse_bound:g}/{self.collapse_patience}"


def _listed(values: tuple[float, ...] | None) -> str:
    return ", ".join(f"{value:g}" for value in values) if values else "none"
