"""Sizes of a data set, for checks of evaluations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalSizes:
    """Sizes of the data to evaluate on; ``None`` skips the check that needs a value.

    Attributes:
        train: Number of training images: kNN's bank, retrieval's database.
        classes: Number of classes; ``None`` if unknown.
        class_sizes: Number of training images of each class; ``None`` if unknown.
        multi_label: Whether an image may have several classes.
    """

    dataset: str
    train: int
    classes: int | None = None
    class_sizes: tuple[int, ...] | None = None
    multi_label: bool = False

    @property
    def smallest_class(self) -> int | None:
        """Number of images of the smallest class."""
        return None if self.class_sizes is None else min(self.class_sizes)
