"""Claims: their verdicts from a store filled by hand, and their words."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from eman.cli import main
from eman.evaluation.results.claims import CellRef, Claim, Contrast, Expect, Measured, Verdict, VerdictKind, judge
from eman.platform.errors import UserError
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.claims.registry import CLAIMS, claim_results, claims_named
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.tables.scope import Scope

pytestmark = pytest.mark.usefixtures("store_file")

REF = CellRef("table1", "a", "b")
SPREAD = (0.3, -0.2, 0.1, 0.0, -0.3, 0.2, 0.1, -0.2, 0.05, -0.05, 0.15, -0.15)


def claim(expect: Expect, margin: float | None = None, name: str = "x") -> Claim:
    return Claim(name=name, says="x", source="y", contrast=Contrast(REF, REF), expect=expect, margin=margin)


def outcome(expect: Expect, differences: Sequence[float], margin: float | None = None, failed: int = 0) -> VerdictKind:
    [verdict] = judge({claim(expect, margin): Measured("-", dict(enumerate(differences)), set(range(failed)))})
    return verdict.outcome


def around(mean: float) -> list[float]:
    return [mean + part for part in SPREAD]


@pytest.mark.parametrize(
    ("expect", "mean", "expected"),
    [
        (Expect.HIGHER, 2.0, VerdictKind.SUPPORTED),
        (Expect.HIGHER, -2.0, VerdictKind.CONTRADICTED),
        (Expect.HIGHER, 0.01, VerdictKind.NOT_SHOWN),
        (Expect.LOWER, -2.0, VerdictKind.SUPPORTED),
        (Expect.LOWER, 2.0, VerdictKind.CONTRADICTED),
    ],
)
def test_a_direction_is_supported_contradicted_or_not_shown(expect: Expect, mean: float, expected: VerdictKind) -> None:
    assert outcome(expect, around(mean)) is expected


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (0.2, VerdictKind.EQUIVALENT),  # different from 0, and yet within the margin
        (1.0, VerdictKind.NOT_SHOWN),
        (3.0, VerdictKind.CONTRADICTED),
        (-3.0, VerdictKind.CONTRADICTED),
    ],
)
def test_equality_is_shown_by_a_margin_not_by_a_missing_difference(mean: float, expected: VerdictKind) -> None:
    assert outcome(Expect.EQUAL, around(mean), margin=1.0) is expected


def test_few_noisy_seeds_show_no_equality() -> None:
    assert outcome(Expect.EQUAL, [1.5, -1.4], margin=1.0) is VerdictKind.NOT_SHOWN


@pytest.mark.parametrize(
    ("failed", "expected"), [(3, VerdictKind.SUPPORTED), (1, VerdictKind.NOT_SHOWN), (0, VerdictKind.CONTRADICTED)]
)
def test_failures_are_counted(failed: int, expected: VerdictKind) -> None:
    assert outcome(Expect.FAILS, [0.0] * 3, failed=failed) is expected


def test_a_failed_row_is_below_every_number() -> None:
    assert outcome(Expect.LOWER, [-math.inf] * 8, failed=8) is VerdictKind.SUPPORTED
    assert outcome(Expect.HIGHER, [-math.inf] * 8, failed=8) is VerdictKind.CONTRADICTED


def test_without_seeds_nothing_is_said() -> None:
    assert outcome(Expect.HIGHER, []) is VerdictKind.NOT_RUN
    assert outcome(Expect.HIGHER, [5.0]) is VerdictKind.NOT_SHOWN


def test_a_claim_needs_more_among_others() -> None:
    """Also among claims that have not been run: which of them are run first must not matter."""
    differences = (0.9, 0.2, 1.4, -0.3, 0.8, 0.5, 0.1, 1.2)
    alone = claim(Expect.HIGHER)
    others = {claim(Expect.HIGHER, name=str(n)): Measured("-", {}) for n in range(19)}
    found = Measured("-", dict(enumerate(differences)))
    assert judge({alone: found})[0].outcome is VerdictKind.SUPPORTED
    together = judge({alone: found, **others})[0]
    assert together.outcome is VerdictKind.NOT_SHOWN
    assert together.p == pytest.approx(20 * (together.evidence.p or 0))


def test_a_claim_of_equality_needs_a_margin_and_no_other_takes_one() -> None:
    for expect, margin in ((Expect.EQUAL, None), (Expect.HIGHER, 1.0)):
        with pytest.raises(ValueError, match="margin"):
            claim(expect, margin)


def finish(store: Store, method: str, scheme: str, seed: int, value: float | None, **metrics: float) -> None:
    """Record a run of FixMatch with a test accuracy; ``None`` records a failure."""
    log = store.begin(TRAINING, SMOKE.run(method, scheme, seed).key, "x", params={}, tags={})
    if value is None:
        log.fail("collapsed at epoch 1", final=True)
    else:
        log.finish({"test/top1": value, **{name.replace("__", "/"): number for name, number in metrics.items()}})


def judged(*names: str, seeds: Sequence[int] | None = None) -> dict[str, Verdict]:
    store = Store(Workspace.from_environment())
    found = judge(claim_results(claims_named(names), Scope(profile=SMOKE), store, seeds))
    return {verdict.claim.name: verdict for verdict in found}


def test_verdicts_use_every_seed_that_has_both_results() -> None:
    store = Store(Workspace.from_environment())
    for seed in range(10):  # more than one block of seeds
        finish(store, "fixmatch", "bn", seed, 60.0 + seed % 3, train__pseudo_label_accuracy=0.8)
        finish(store, "fixmatch", "eman", seed, 63.0 + seed % 4, train__pseudo_label_accuracy=0.9)
    finish(store, "fixmatch", "bn", 10, 1.0)  # without a partner
    finish(store, "fixmatch", "gn", 0, None)
    store.begin(TRAINING, SMOKE.run("fixmatch", "gn", 1).key, "x", params={}, tags={}).fail("a node was lost")
    found = judged()
    first = found["fixmatch-eman-bn"]
    assert (first.outcome, first.evidence.n, first.missing, first.published) == (VerdictKind.SUPPORTED, 10, 1, "+10.3")
    assert first.evidence.mean == pytest.approx(sum(3 + s % 4 - s % 3 for s in range(10)) / 10)
    pseudo = found["fixmatch-eman-bn-pseudo-labels"].evidence
    assert pseudo.mean == pytest.approx(12.5) and pseudo.n == 10
    fallen = found["fixmatch-gn-eman"]  # a run that would not fail again is only missing
    assert (fallen.failed, fallen.evidence.n) == (1, 1)
    assert found["moco-eman-bn"].outcome is VerdictKind.NOT_RUN
    assert judged("fixmatch-eman-bn", seeds=range(4))["fixmatch-eman-bn"].evidence.n == 4


def test_names_and_tables_choose_claims() -> None:
    assert {c.name for c in claims_named(["8"])} < set(CLAIMS)
    assert claims_named(["table8", "8"]) == claims_named(["8"])
    assert claims_named([]) == tuple(CLAIMS.values())
    with pytest.raises(UserError, match="no claim is about table3"):
        claims_named(["3"])
    with pytest.raises(UserError, match="moco-eman-bn"):
        claims_named(["moco-eman-bm"])


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_claim_is_about_cells_that_exist_and_has_the_papers_sign(profile: str) -> None:
    """At every profile. The paper's own numbers support each of its claims."""
    store, scope = Store(Workspace.from_environment()), Scope(profile=PROFILES[profile])
    found = judge(claim_results(claims_named([]), scope, store, [0]))
    for verdict in found:
        expect, published = verdict.claim.expect, verdict.published
        if published in ("-", "failed"):
            ours = verdict.claim.source == "ours" or verdict.claim.relative
            assert ours or expect is Expect.FAILS, verdict.claim.name
        elif expect is Expect.EQUAL:
            assert abs(float(published)) <= (verdict.claim.margin or 0)
        else:
            assert (float(published) > 0) == (expect is Expect.HIGHER), verdict.claim.name


def test_the_command_prints_every_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = Store(Workspace.from_environment())
    for seed in range(3):
        finish(store, "fixmatch", "bn", seed, 60.0 + seed)
        finish(store, "fixmatch", "eman", seed, 70.0)
    command = ["claims", "fixmatch-eman-bn", "fixmatch-gn-eman", "--profile", "smoke"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "+9.0 ±2.5" in text and "fewer than six seeds" in text and "1 supported, 1 not run" in text
    for form in ("markdown", "latex", "csv"):
        assert main([*command, "--format", form]) == 0
        assert "BN / EMAN is above BN / BN" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["difference"] == pytest.approx(9.0)
    out = tmp_path / "claims.parquet"
    assert main([*command, "--format", "parquet", "--out", str(out)]) == 0
    assert list(pd.read_parquet(out)["verdict"]) == ["supported", "not run"]
    assert main(["claims", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(CLAIMS)
    assert main(["claims", "moco-eman-b"]) == 2
    assert "unknown claim or table" in capsys.readouterr().err
