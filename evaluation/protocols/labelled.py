"""Fields of the protocols that train on a fraction of the labels."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from eman.evaluation.protocols.protocol import Count, LabelSets, Milestone, ProtocolSpec, Rate, Share
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError
from eman.trainers.data.shares import proportional_counts
from eman.trainers.spec.method import LabelSampling

#: Names of index files, separated by commas. They have no slash, so they stay in the data set's folder.
IndexFiles = Annotated[str, Field(pattern=r"^\w[\w.-]*(,\w[\w.-]*)*$")]


class LabelledSpec(ProtocolSpec):
    """Training on a fraction of the labels, repeated over several label sets."""

    lr: Rate
    epochs: Count = 50
    """Number of epochs over the labelled images."""
    milestones: tuple[Milestone, ...] = (0.6, 0.8)  # 30 and 40 of 50 epochs
    """Fractions of the epochs, increasing, at which learning rates are divided by 10."""
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Images per step."""
    label_fraction: Share = 0.1
    """Fraction of the training images whose labels are used."""
    label_sets: LabelSets = 3  # five at 1 %, three at 10 % (Section 5.2)
    """Number of label sets over which results are averaged."""
    label_sampling: LabelSampling = "proportional"
    """How many images of each class a label set has: as many as its share of the training images (proportional), or
    equally many (balanced)."""
    label_index: IndexFiles | None = None
    """Index files of the labelled images, in place of the label sets."""
    crop_min: Share = 0.08
    """Smallest area of a random crop, as a fraction of the image's."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.label_index is not None or self.label_fraction == 1:
            self.drop("label_sampling")
        return self

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            shown = ",".join(f"{share:g}" for share in self.milestones)
            raise UserError(f"milestones are {shown}; give increasing shares of the epochs, for example 0.6,0.8.")
        return self

    @property
    def prefix(self) -> str:
        """Prefix of the names of its metrics, for example ``linear/10pct_``."""
        return prefix(self.name, self.label_fraction)

    @property
    def held_out_metric(self) -> str:
        """Name of the accuracy on the held-out images, which selects a learning rate."""
        return f"{self.prefix}held_out_top1"

    def passes(self, images: int) -> int:
        """Return the number of images in all steps, from the number of the run's training images."""
        return round(self.label_fraction * images) * self.label_sets * self.epochs

    @classmethod
    def images(cls, specs: Sequence[Self], training_images: int) -> int:
        return sum(spec.passes(training_images) for spec in specs)

    def check(self, sizes: EvalSizes) -> None:
        labelled = round(self.label_fraction * sizes.train)
        if self.label_index is None and sizes.classes is not None and labelled < sizes.classes:
            raise UserError(
                f"label_fraction is {self.label_fraction:g}, and {labelled} labelled samples leave some of the "
                f"{sizes.classes} classes with none; give at least {sizes.classes / sizes.train:.2g}."
            )
        drawn = self.label_index is None and self.label_fraction < 1
        if drawn and self.label_sampling == "proportional" and sizes.class_sizes is not None:
            proportional_counts(sizes.class_sizes, labelled)


def prefix(protocol: str, fraction: float) -> str:
    """Return the prefix of metrics at a fraction of the labels, for example ``linear/10pct_``."""
    return f"{protocol}/{100 * fraction:g}pct_"
