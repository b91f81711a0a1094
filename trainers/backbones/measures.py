"""What is known of a backbone without building it again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """What is known of a built backbone.

    Attributes:
        features: Number of output features, D.
        values: Size of its state dict: weights and running statistics.
        norms: Kinds of its norms: ``batch``, and of others the schemes that they are: ``ln``, ``gn``, ``in``.
    """

    features: int
    values: int
    norms: tuple[str, ...]
