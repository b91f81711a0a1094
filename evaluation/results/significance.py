"""Statistics over seeds: intervals, paired differences between schemes, agreement with the paper's order.

Runs are paired by seed: two schemes share a seed's initial weights, label set, batches and views, so that the
difference within a seed varies less than either value.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Coverage of every interval.
CONFIDENCE = 0.95


def half_width(values: Sequence[float]) -> float | None:
    """Return half the width of the mean's 95 % interval, ``t s / sqrt(n)``; ``None`` for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy import stats

    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def t_p(differences: Sequence[float], bound: float = 0.0, alternative: str = "two-sided") -> float:
    """Return p of the t-test that the mean is ``bound``. If all differences are equal, p is 0 or 1."""
    from scipy import stats

    if statistics.stdev(differences) == 0:
        gap = differences[0] - bound
        return float({"two-sided": gap == 0, "greater": gap <= 0, "less": gap >= 0}[alternative])
    return float(stats.ttest_1samp(differences, bound, alternative=alternative).pvalue)


@dataclass(frozen=True)
class Difference:
    """A difference of means over ``n`` pairs: half the width of its 95 % interval, and p of the paired t-test."""

    mean: float
    half_width: float
    p: float
    n: int

    @property
    def verdict(self) -> str:
        """The outcome at the 5 % level."""
        if self.p >= 1 - CONFIDENCE:
            return "no difference shown"
        return "higher" if self.mean > 0 else "lower"


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return ``first`` minus ``second``, both by seed; ``None`` with fewer than two common seeds.

    If all differences are equal, p is 1 if they are 0, and 0 otherwise.
    """
    pairs = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    width = half_width(pairs)
    if width is None:
        return None
    return Difference(statistics.fmean(pairs), width, t_p(pairs), len(pairs))


def kendall(ours: Sequence[float], papers: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two columns; ``None`` if either has fewer than two distinct values."""
    if len(set(ours)) < 2 or len(set(papers)) < 2:
        return None
    from scipy import stats

    return float(stats.kendalltau(ours, papers).statistic)
