"""What a check of an evaluation must know of the data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalSizes:
    """What a check must know of the data that a run is evaluated on; ``None`` skips a check.

    Attributes:
        dataset: Name of the data set.
        train: Training images that are used: kNN's bank, retrieval's database.
        classes: Number of classes.
        smallest_class: Images of the class that has fewest.
        multi_label: Whether an image may have several classes.
    """

    dataset: str
    train: int
    classes: int | None = None
    smallest_class: int | None = None
    multi_label: bool = False
