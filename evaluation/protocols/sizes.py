"""Sizes of a data set, for checks of evaluations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalSizes:
    """Sizes of the data to evaluate on; ``None`` skips the check that needs a value.

    Attributes:
        train: Number of training images: kNN's bank, retrieval's database.
        smallest_class: Number of images of the smallest class.
        multi_label: Whether an image may have several classes.
    """

    dataset: str
    train: int
    classes: int | None = None
    smallest_class: int | None = None
    multi_label: bool = False
