"""Class counts of label sets, without torch."""

from collections.abc import Sequence

from eman.platform.errors import UserError


def proportional_counts(sizes: Sequence[int], count: int) -> list[int]:
    """Return how many of ``count`` samples each class gets in proportion to class sizes, at least one.

    Shares are rounded down; the samples left over go to the classes with the largest remainders, the first of equal
    ones (largest remainder method).

    Raises:
        UserError: A class would get none.
    """
    total = sum(sizes)
    counts = [count * size // total for size in sizes]
    largest = sorted(range(len(sizes)), key=lambda label: -(count * sizes[label] % total))
    for label in largest[: count - sum(counts)]:
        counts[label] += 1
    for label, (size, part) in enumerate(zip(sizes, counts, strict=True)):
        if size and not part:
            raise UserError(
                f"{count} labelled samples, in proportion to class sizes, leave class {label} with none of its {size}; "
                f"ask for more (a larger label_fraction), or give label_sampling=balanced."
            )
    return counts
