"""Tests over seeds: against scipy, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from eman.evaluation.results.evidence import (
    LEVEL,
    beyond_p,
    detectable,
    equivalence_p,
    evidence,
    holm,
    sign_flip_p,
    sign_p,
)
from eman.evaluation.results.significance import half_width

DRAWS = 1000


def draws(n: int, mean: float = 0.0, seed: int = 0) -> list[list[float]]:
    """Return many samples of n differences with standard deviation 1."""
    return np.random.default_rng(seed).normal(mean, 1.0, (DRAWS, n)).tolist()  # type: ignore[no-any-return]


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def at_most(observed: float, promised: float) -> bool:
    """Return whether a share over the draws is at most what was promised, up to three standard errors."""
    return observed <= promised + 3 * math.sqrt(promised * (1 - promised) / DRAWS)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_sign_flip_test_counts_every_pattern(n: int) -> None:
    for sample in draws(n, mean=0.5)[:20]:
        expected = stats.permutation_test(
            (sample, [0.0] * n), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
            n_resamples=np.inf, vectorized=True,
        )  # fmt: skip
        assert sign_flip_p(sample) == pytest.approx(expected.pvalue)


def test_the_smallest_p_of_the_sign_flip_test_is_that_of_equal_signs() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0, 0.5, 0.1, 4.0]) == 2 / 2**6
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


def test_equal_differences_are_no_rounding_error_apart() -> None:
    assert sign_flip_p([0.1, 0.2, -0.3, 0.1 + 0.2, -0.3]) == sign_flip_p([1, 2, -3, 3, -3])


@pytest.mark.parametrize(("n", "test"), [(4, "t"), (8, "sign flip")])
def test_under_the_null_at_most_five_percent_are_rejected(n: int, test: str) -> None:
    found = [evidence(sample) for sample in draws(n)]
    assert {e.test for e in found} == {test}
    assert at_most(share([(e.p or 0) <= LEVEL for e in found]), LEVEL)


def test_the_sign_flip_test_needs_symmetry_only() -> None:
    samples = np.random.default_rng(1).standard_t(2, (DRAWS, 8)).tolist()  # heavy tails: no variance
    assert at_most(share([sign_flip_p(sample) <= LEVEL for sample in samples]), LEVEL)


@pytest.mark.parametrize("level", [LEVEL, LEVEL / 20])
@pytest.mark.parametrize("n", [5, 12])
def test_the_detectable_difference_is_found_with_the_promised_power(n: int, level: float) -> None:
    shift = detectable(1.0, n, level)
    assert shift is not None
    p = stats.ttest_1samp(np.array(draws(n, mean=shift)), 0.0, axis=1).pvalue
    assert np.mean(p <= level) == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / DRAWS))


def test_intervals_cover_the_mean_in_95_percent() -> None:
    covered = [abs(float(np.mean(sample)) - 0.7) <= (half_width(sample) or 0) for sample in draws(6, mean=0.7)]
    assert share(covered) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / DRAWS))


def test_a_difference_as_large_as_the_margin_is_called_equivalent_in_at_most_five_percent() -> None:
    assert at_most(share([equivalence_p(sample, 1.0) <= LEVEL for sample in draws(20, mean=1.0)]), LEVEL)
    assert share([equivalence_p(sample, 1.0) <= LEVEL for sample in draws(20)]) > 0.95
    assert at_most(share([beyond_p(sample, 1.0) <= LEVEL for sample in draws(20, mean=1.0)]), LEVEL)
    assert share([beyond_p(sample, 1.0) <= LEVEL for sample in draws(20, mean=2.0)]) > 0.95


def test_holm_rejects_what_its_definition_does() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_holm_keeps_any_wrong_rejection_to_five_percent_in_a_family() -> None:
    """Of ten claims five have no effect; the others do, which raises the chance for the five under Holm."""
    noise = np.random.default_rng(2).normal(0.0, 1.0, (DRAWS, 10, 8))
    noise[:, 5:] += 3.0
    ps = stats.ttest_1samp(noise, 0.0, axis=2).pvalue
    wrong = [any(p <= LEVEL for p in holm(list(row))[:5]) for row in ps]
    assert at_most(share(wrong), LEVEL)


def test_infinite_differences_are_judged_by_their_signs() -> None:
    found = evidence([math.inf, 1.0, 2.0, math.inf, 0.5, 1.0])
    assert (found.mean, found.test, found.p) == (None, "sign", 2 / 2**6)
    assert sign_p([0.0, 0.0]) == 1.0


def test_a_test_that_could_not_reach_the_level_is_not_used() -> None:
    """Eight seeds reach 1/128 at best, too much for the first of twenty tests."""
    sample = [1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0]
    assert (evidence(sample).test, evidence(sample, LEVEL / 20).test) == ("sign flip", "t")


def test_one_seed_shows_nothing() -> None:
    assert evidence([2.0]).p is None and evidence([2.0]).mean == 2.0
    assert evidence([]).n == 0
