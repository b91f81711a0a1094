"""Decide a claim while its seeds arrive, without raising the probability of a wrong verdict.

Results are looked at after 4, 8, 12, ... seeds, in the order of the seeds. Each look spends a part of the level, by the
spending function of Lan and DeMets that resembles O'Brien and Fleming's bounds: little at first, most at the end. A
look rejects at the part that it spends, so by the union bound the probability that any look is wrong is at most the
level, whatever the test and however the looks depend on each other.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from eman.evaluation.results import evidence
from eman.evaluation.results.claims import Claim, Expect, Measured, Verdict, VerdictKind, judge_one, single_p
from eman.evaluation.results.significance import half_width

#: Seeds between two looks, and before the first.
STEP = 4


@dataclass(frozen=True)
class Decision:
    """The decision on a claim after the looks so far.

    Attributes:
        outcome: ``NOT_SHOWN`` if no further seeds would help; ``None`` while more seeds are worth running.
        looked: Seeds at the look that decided, or at the last one.
        reason: Why no more seeds are needed, in words; empty while undecided.
    """

    outcome: VerdictKind | None
    looked: int
    reason: str = ""


def looks(most: int) -> tuple[int, ...]:
    """Return the numbers of seeds at which results are looked at, up to ``most``."""
    return tuple(sorted({*range(STEP, most, STEP), most}))


def spent(share: float, level: float) -> float:
    """Return the part of a level that may be spent once a share of the seeds, in (0, 1], has been run."""
    from scipy import stats

    return float(2 * stats.norm.sf(stats.norm.isf(level / 2) / math.sqrt(share)))


def look_levels(most: int, level: float) -> dict[int, float]:
    """Return the level of each look, by its number of seeds: what may be spent there and not before."""
    levels, before = {}, 0.0
    for look in looks(most):
        total = spent(look / most, level)
        levels[look], before = total - before, total
    return levels


def decide(claim: Claim, measured: Measured, *, most: int, level: float) -> Decision:
    """Return the decision on a claim.

    Args:
        claim: The claim.
        measured: Its results. The seeds from 0 on are used, up to the first that has none.
        most: Seeds after which nothing more is run.
        level: Level of this claim: 5 % divided by the number of claims that are decided together.
    """
    looked = 0
    for look, here in look_levels(most, level).items():
        if look > measured.unbroken:
            break
        looked, seen = look, measured.first(look)
        outcome = judge_one(claim, seen, here)
        if claim.expect is Expect.FAILS or outcome is not VerdictKind.NOT_SHOWN:
            return Decision(outcome, look, f"{outcome.value} after {look} seeds")
        if look == most:
            return Decision(outcome, look, f"not shown after {look} seeds, the most allowed")
        if _is_futile(claim, seen.values, most, level):
            return Decision(outcome, look, f"futile after {look} seeds: {most} would hardly show it either")
    return Decision(None, looked)


def verdict(claim: Claim, measured: Measured, decision: Decision, *, most: int, level: float) -> Verdict:
    """Return the verdict of a decision, from the seeds that it looked at.

    Its p is that of the last look, scaled so that a decision needs at most 5 %.
    """
    seen, look_level = measured.first(decision.looked), look_levels(most, level).get(decision.looked, level)
    found = evidence.evidence(seen.values, look_level)
    p = single_p(claim, seen, found)
    if p is not None:
        p = min(1.0, p * evidence.LEVEL / look_level)
    outcome = decision.outcome or (VerdictKind.NOT_SHOWN if decision.looked else VerdictKind.NOT_RUN)
    tested = None if claim.expect is Expect.FAILS else p
    return Verdict(
        claim, outcome, found, measured.published, tested, len(seen.failed), measured.missing, sequential=True
    )


def _is_futile(claim: Claim, differences: Sequence[float], most: int, level: float) -> bool:
    """Return whether even the optimistic end of the 95 % interval is too small to be found with ``most`` seeds."""
    if not all(map(math.isfinite, differences)):
        return False
    width, found = half_width(differences), evidence.detectable(statistics.stdev(differences), most, level)
    if width is None or found is None:
        return False
    mean = statistics.fmean(differences)
    if claim.margin is not None:  # the spread leaves no room within the margin
        return abs(mean) - width < claim.margin < found and abs(mean) + width > claim.margin
    return (mean if claim.expect is Expect.HIGHER else -mean) + width < found
