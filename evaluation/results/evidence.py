"""What paired differences over seeds show: intervals, exact tests, power, and corrections for several tests.

Shapes: n differences, one per seed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from eman.evaluation.results.significance import half_width, t_p

#: Family-wise error of the verdicts that are given together.
LEVEL = 0.05

#: Power at which the smallest detectable difference is stated.
POWER = 0.8

#: Most differences for which all sign patterns are counted: 2^23 sums, 64 MB.
MOST_EXACT = 24

#: Most seeds that :func:`seeds_needed` returns.
MOST_NEEDED = 10_000


@dataclass(frozen=True)
class Evidence:
    """What n paired differences say about their mean.

    Attributes:
        n: Number of pairs.
        mean: Mean difference; ``None`` if a row failed in some pair, which has no number.
        half_width: Half the width of the mean's 95 % interval (Student's t); ``None`` without one.
        p: Two-sided p of no difference; ``None`` with fewer than two pairs.
        test: The test that gave it: ``sign flip``, ``t`` or ``sign``.
        deviation: Standard deviation of the differences; ``None`` without one.
        detectable: The smallest difference that a t-test of this many pairs finds with 80 % probability, given their
            standard deviation and the level at which the test is made; ``None`` without a standard deviation.
    """

    n: int
    mean: float | None = None
    half_width: float | None = None
    p: float | None = None
    test: str = ""
    deviation: float | None = None
    detectable: float | None = None


def evidence(differences: Sequence[float], level: float = LEVEL) -> Evidence:
    """Test whether differences have mean 0.

    The test is the exact sign-flip test if its smallest possible p, 2^(1-n), is at most ``level``, and else the paired
    t-test. If a difference is infinite because one row failed, it is the exact sign test, which needs no numbers.

    Args:
        differences: One per seed; infinite if only one of both rows failed, 0 if both did.
        level: Level at which the result will be judged; below 5 % if it is one of several.
    """
    n = len(differences)
    if n < 2:
        return Evidence(n, differences[0] if n and math.isfinite(differences[0]) else None)
    if not all(map(math.isfinite, differences)):
        return Evidence(n, p=sign_p(differences), test="sign")
    mean, width = statistics.fmean(differences), half_width(differences)
    deviation = statistics.stdev(differences)
    exact = 2.0 ** (1 - n) <= level and n <= MOST_EXACT
    p, test = (sign_flip_p(differences), "sign flip") if exact else (t_p(differences), "t")
    return Evidence(n, mean, width, p, test, deviation, detectable(deviation, n, level))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of the sign-flip (Fisher-Pitman) test that differences are symmetric about 0.

    It is the share of the 2^n sign patterns whose sum is at least as far from 0 as the observed sum.
    """
    import numpy as np

    # A pattern and its opposite have the same distance, so the first sign stays.
    sums_P = np.array([differences[0]])
    for difference in differences[1:]:
        sums_P = np.concatenate([sums_P + difference, sums_P - difference])
    rounding = 1e-12 * sum(map(abs, differences))
    return float(np.mean(np.abs(sums_P) >= abs(math.fsum(differences)) - rounding))


def sign_p(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of the sign test; differences of 0 are left out."""
    from scipy import stats

    signs = [difference > 0 for difference in differences if difference != 0]
    return float(stats.binomtest(sum(signs), len(signs)).pvalue) if signs else 1.0


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """Return p of two one-sided t-tests (TOST): small if the mean lies within ``margin`` of 0."""
    return max(t_p(differences, -margin, "greater"), t_p(differences, margin, "less"))


def beyond_p(differences: Sequence[float], margin: float) -> float:
    """Return p of one-sided t-tests on both sides, times two (Bonferroni): small if the mean lies beyond ``margin``."""
    sides = t_p(differences, margin, "greater"), t_p(differences, -margin, "less")
    return min(1.0, 2 * min(sides))


def detectable(deviation: float, n: int, level: float = LEVEL, power: float = POWER) -> float | None:
    """Return the mean at which a two-sided t-test of ``n`` differences rejects with probability ``power``.

    Args:
        deviation: Standard deviation of the differences.
        n: Number of differences.
        level: Level of the test.
        power: Probability of finding the difference.

    Returns:
        The mean, in the units of ``deviation``; ``None`` for fewer than two differences.
    """
    if n < 2:
        return None
    return _detectable_shift(n, level, power) * deviation / math.sqrt(n)


def seeds_needed(deviation: float, difference: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """Return the fewest differences whose t-test finds a mean of ``difference``: the inverse of :func:`detectable`.

    Returns:
        The number; ``None`` if it is above :data:`MOST_NEEDED`.
    """
    low, high = 1, MOST_NEEDED  # the detectable mean falls as their number grows
    while high - low > 1:
        middle = (low + high) // 2
        found = detectable(deviation, middle, level, power)
        low, high = (low, middle) if found is not None and found <= difference else (middle, high)
    last = detectable(deviation, high, level, power)
    return high if last is not None and last <= difference else None


@lru_cache(maxsize=1024)
def _detectable_shift(n: int, level: float, power: float) -> float:
    """Return the mean of :func:`detectable` in standard errors."""
    from scipy import optimize, stats

    edge = stats.t.ppf(1 - level / 2, n - 1)

    def missing(shift: float) -> float:  # the noncentral t's lower tail is negligible at this power
        return float(stats.nct.sf(edge, n - 1, shift)) - power

    return float(optimize.brentq(missing, 0.0, 2.0 * edge + 10.0))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple testing (Holm), in the order given: reject those at most the level."""
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected
