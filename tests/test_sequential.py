"""Decisions while seeds arrive: their error and their saving, by simulation."""

import math

import numpy as np
import pytest

from eman.evaluation.results.claims import CellRef, Claim, Contrast, Expect, Measured, VerdictKind
from eman.evaluation.results.sequential import Decision, decide, look_levels, looks, spent

REF = CellRef("table1", "a", "b")
LEVEL = 0.05
MOST = 16
DRAWS = 400


def claim(expect: Expect = Expect.HIGHER, margin: float | None = None) -> Claim:
    return Claim(name="x", says="x", source="y", contrast=Contrast(REF, REF), expect=expect, margin=margin)


def decided(sample: list[float], expect: Expect = Expect.HIGHER, margin: float | None = None) -> Decision:
    return decide(claim(expect, margin), Measured("-", dict(enumerate(sample))), most=MOST, level=LEVEL)


def simulated(mean: float, expect: Expect = Expect.HIGHER, margin: float | None = None) -> list[Decision]:
    samples = np.random.default_rng(0).normal(mean, 1.0, (DRAWS, MOST)).tolist()
    return [decided(sample, expect, margin) for sample in samples]


def share(decisions: list[Decision], *outcomes: VerdictKind) -> float:
    return sum(decision.outcome in outcomes for decision in decisions) / len(decisions)


def allowed(level: float) -> float:
    """Return a level plus three standard errors of a simulated share."""
    return level + 3 * math.sqrt(level * (1 - level) / DRAWS)


def test_looks_come_every_four_seeds_and_at_the_end() -> None:
    assert looks(24) == (4, 8, 12, 16, 20, 24)
    assert looks(10) == (4, 8, 10)
    assert looks(3) == (3,)


def test_all_looks_together_spend_the_level_and_most_of_it_late() -> None:
    levels = look_levels(MOST, LEVEL)
    assert sum(levels.values()) == pytest.approx(LEVEL)
    assert list(levels.values()) == sorted(levels.values())
    assert spent(0.5, LEVEL) == pytest.approx(0.00557, abs=1e-5)  # 2 (1 - Phi(1.96 / sqrt(0.5)))


def test_without_an_effect_at_most_five_percent_are_decided() -> None:
    found = simulated(0.0)
    assert share(found, VerdictKind.SUPPORTED, VerdictKind.CONTRADICTED) <= allowed(LEVEL)
    assert share(found, VerdictKind.NOT_SHOWN) >= 1 - allowed(LEVEL)  # none stays undecided


def test_a_large_effect_is_found_with_a_fraction_of_the_seeds() -> None:
    found = simulated(2.0)
    assert share(found, VerdictKind.SUPPORTED) > 0.99
    assert np.mean([decision.looked for decision in found]) < 0.6 * MOST


def test_no_effect_is_given_up_before_the_end() -> None:
    assert np.mean([decision.looked for decision in simulated(-0.5)]) < 0.6 * MOST


def test_a_difference_at_the_margin_is_called_equal_in_at_most_five_percent() -> None:
    assert share(simulated(1.0, Expect.EQUAL, 1.0), VerdictKind.EQUIVALENT) <= allowed(LEVEL)
    assert share(simulated(0.0, Expect.EQUAL, 1.5), VerdictKind.EQUIVALENT) > 0.9


def test_a_decision_does_not_change_with_further_seeds() -> None:
    sample = [2.0, 2.2, 1.8, 2.1, 1.9, 2.0, 2.1, 2.2]
    first = decided(sample)
    assert first.outcome is VerdictKind.SUPPORTED
    assert decided([*sample, -9.0, -9.0, -9.0, -9.0]) == first


def test_seeds_after_a_gap_wait() -> None:
    results = dict(enumerate([5.0, 5.1, 4.9, 5.2, 5.0, 4.8, 5.1, 5.0]))
    del results[2]
    assert decide(claim(), Measured("-", results), most=MOST, level=LEVEL) == Decision(None, 0)


def test_too_few_seeds_decide_nothing() -> None:
    assert decided([5.0, 5.0, 5.0]) == Decision(None, 0)
    assert decided([0.1, -0.2, 1.4, 0.3, 2.0]).looked == 4


def test_a_claim_of_failure_is_decided_at_the_first_look() -> None:
    fails = claim(Expect.FAILS)
    found = decide(fails, Measured("-", dict.fromkeys(range(4), 0.0), set(range(4))), most=MOST, level=LEVEL)
    assert (found.outcome, found.looked) == (VerdictKind.SUPPORTED, 4)
