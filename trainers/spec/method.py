"""Building blocks of a method's own section. A method's file derives its section from those that apply."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from eman.trainers.data import catalog, names
from eman.trainers.spec.section import Section
from eman.trainers.spec.sections import PositiveShare, Share
from eman.trainers.views.options import ViewOptions

Batch = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=1, le=65_536)]


class MethodSection(Section):
    """What every method has: a name, and random crops."""

    name: str
    crop_min: Annotated[
        PositiveShare, Field(description="Smallest share of an image's area that a random resized crop may take.")
    ] = 0.2

    def batches(self) -> dict[str, int]:
        """Return the images of a step by stream, over all devices."""
        return {}

    def view_options(self) -> ViewOptions:
        """Return what the method's views depend on."""
        return ViewOptions(crop_min=self.crop_min)

    @property
    def images_per_step(self) -> int:
        """Images of a step of the stream whose passes make an epoch: the unlabelled one where there is one."""
        batches = self.batches()
        return batches[max(batches)]


class TeacherSection(MethodSection):
    """A method with a teacher."""

    momentum: Annotated[Share, Field(description="Momentum m of the teacher's parameters, Eq. (1).")] = 0.999


class UnlabelledSection(MethodSection):
    """A method that sees unlabelled images."""

    batch: Annotated[Batch, Field(description="Unlabelled images a step, over all devices.")] = 256

    def batches(self) -> dict[str, int]:
        return {**super().batches(), "unlabelled": self.batch}


class LabelledSection(MethodSection):
    """A method that sees labelled images."""

    crop_min: Annotated[
        PositiveShare, Field(description="Smallest share of an image's area that a random resized crop may take.")
    ] = 0.08
    label_fraction: Annotated[PositiveShare, Field(description="Share of the training images that have labels.")] = 0.1
    label_set: Annotated[
        int, Field(ge=0, lt=catalog.MOST_LABEL_SETS, description="Number of the label set: which images have labels.")
    ] = 0
    label_index: Annotated[
        str | None,
        Field(
            max_length=1000,
            description="Name of a file in the set's folder indexes/ that lists the labelled images, in place of the "
            "label set.",
        ),
    ] = None
    labelled_batch: Annotated[Batch, Field(description="Labelled images a step, over all devices.")] = 256

    def batches(self) -> dict[str, int]:
        return {**super().batches(), "labelled": self.labelled_batch}

    @model_validator(mode="after")
    def _check_label_index(self) -> Self:
        if self.label_index is not None:
            names.check_index_file(self.label_index)
        return self
