"""Fields of the protocols that train on a fraction of the labels."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from eman.evaluation.protocols.protocol import Count, Milestone, ProtocolSpec, Rate, Share
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError

#: Names of index files, separated by commas. They have no slash, so they stay in the data set's folder.
IndexFiles = Annotated[str, Field(pattern=r"^\w[\w.-]*(,\w[\w.-]*)*$")]


class LabelledSpec(ProtocolSpec):
    """Training on a fraction of the labels, repeated over several label sets."""

    lr: Rate
    epochs: Annotated[Count, Field(description="Number of epochs over the labelled images.")] = 50
    milestones: Annotated[
        tuple[Milestone, ...],
        Field(description="Fractions of the epochs, increasing, at which learning rates are divided by 10."),
    ] = (0.6, 0.8)  # 30 and 40 of 50 epochs
    batch: Annotated[int, Field(ge=1, le=1_000_000, description="Images per step.")] = 256
    label_fraction: Annotated[Share, Field(description="Fraction of the training images whose labels are used.")] = 0.1
    label_sets: Annotated[
        int, Field(ge=1, le=1000, description="Number of label sets over which results are averaged.")
    ] = 3  # five at 1 %, three at 10 % (Section 5.2)
    label_index: Annotated[
        IndexFiles | None,
        Field(description="Index files of the labelled images, in place of the label sets."),
    ] = None
    crop_min: Annotated[Share, Field(description="Smallest area of a random crop, as a fraction of the image's.")] = (
        0.08
    )

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


def prefix(protocol: str, fraction: float) -> str:
    """Return the prefix of metrics at a fraction of the labels, for example ``linear/10pct_``."""
    return f"{protocol}/{100 * fraction:g}pct_"


def check(spec: LabelledSpec, sizes: EvalSizes) -> None:
    """Raise :class:`UserError` if a fraction of the labels leaves out some class."""
    labelled = round(spec.label_fraction * sizes.train)
    if spec.label_index is None and sizes.classes is not None and labelled < sizes.classes:
        raise UserError(
            f"label_fraction is {spec.label_fraction:g}, and {labelled} labelled samples leave some of the "
            f"{sizes.classes} classes with none; give at least {sizes.classes / sizes.train:.2g}."
        )


def images(specs: Sequence[LabelledSpec], training_images: int) -> int:
    """Return the number of images that pass through the network if each specification trains separately."""
    return sum(spec.passes(training_images) for spec in specs)
