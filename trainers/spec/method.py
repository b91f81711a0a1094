"""Base classes of the methods' own sections; a method derives its section from those that apply."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from eman.trainers.data import catalog, names
from eman.trainers.spec.section import Section
from eman.trainers.spec.sections import PositiveShare, Share
from eman.trainers.views.options import ViewOptions

Batch = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=1, le=65_536)]
LabelSampling = Literal["proportional", "balanced"]


class MethodSection(Section):
    """Fields of every method: a name, and random crops."""

    name: str
    crop_min: PositiveShare = 0.2
    """Smallest area of a random resized crop, as a fraction of the image's."""
    crop_padding: Annotated[float, Field(gt=0, lt=1)] | None = None
    """In place of a random resized crop: shift the image by up to this fraction of its side, with reflected padding
    (1/8 in USB); for images in memory, or of one size. None: random resized crop."""

    def batches(self) -> dict[str, int]:
        """Return the number of images per step, over all devices, by stream."""
        return {}

    def view_options(self) -> ViewOptions:
        """Return the options of the method's views."""
        return ViewOptions(crop_min=self.crop_min, crop_padding=self.crop_padding)

    @property
    def images_per_step(self) -> int:
        """Images per step of the stream whose passes are epochs: unlabelled if there is one, else labelled."""
        batches = self.batches()
        return batches[max(batches)]

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        if self.crop_padding is not None:
            self.drop("crop_min")
        return self


class TeacherSection(MethodSection):
    """A method with a teacher."""

    momentum: Share = 0.999
    """Momentum m of the teacher's parameters, Eq. (1)."""
    average_student: bool = False
    """Where there is no second network (teacher_norm student): keep a moving average of the student's parameters with
    this momentum, and the student's running statistics, to evaluate as the teacher; training does not use it (USB)."""


class UnlabelledSection(MethodSection):
    """A method that uses unlabelled images."""

    batch: Batch = 256
    """Unlabelled images per step, over all devices."""

    def batches(self) -> dict[str, int]:
        return {**super().batches(), "unlabelled": self.batch}


class LabelledSection(MethodSection):
    """A method that uses labelled images."""

    crop_min: PositiveShare = 0.08
    """Smallest area of a random resized crop, as a fraction of the image's."""
    label_fraction: PositiveShare = 0.1
    """Fraction of the run's training images whose labels are used."""
    label_count: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Number of training images whose labels are used, in place of label_fraction."""
    label_set: Annotated[int, Field(ge=0, lt=catalog.MOST_LABEL_SETS)] = 0
    """Number of the random label set, which decides the labelled images; it is independent of seed."""
    label_sampling: LabelSampling = "proportional"
    """How many images of each class a label set has: as many as its share of the training images (proportional, also
    called stratified, as in the official index files), or equally many (balanced)."""
    label_index: Annotated[str | None, Field(max_length=1000)] = None
    """Index file that lists the labelled images, indexes/NAME.csv in the data set's folder, without .csv; it replaces
    label_fraction, label_count, label_set and label_sampling."""
    labelled_batch: Batch = 256
    """Labelled images per step, over all devices."""

    def batches(self) -> dict[str, int]:
        return {**super().batches(), "labelled": self.labelled_batch}

    def labelled_fraction(self, images: int) -> float:
        """Return the fraction of this number of training images whose labels are used."""
        return self.label_fraction if self.label_count is None else self.label_count / images

    @model_validator(mode="after")
    def _check_label_index(self) -> Self:
        if self.label_index is not None:
            names.check_index_file(self.label_index)
            self.drop("label_fraction", "label_count", "label_set", "label_sampling")
        elif self.label_count is not None:
            self.drop("label_fraction")
        if self.label_fraction == 1:
            self.drop("label_sampling")
        return self


class SemiSupervisedSection(LabelledSection, UnlabelledSection):
    """A method that uses labelled and unlabelled images."""

    reuse_labelled: bool = False
    """Also use the labelled images as unlabelled ones, as USB does; otherwise the unlabelled images are the rest
    (Section 5.1)."""
