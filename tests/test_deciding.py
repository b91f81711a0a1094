"""Seeds where they decide: the rounds of `eman decide`, on a store that is filled instead of trained."""

from pathlib import Path

import numpy as np
import pytest

from eman.cli import main
from eman.commands.decide import parse_budget
from eman.evaluation.results.claims import VerdictKind
from eman.evaluation.results.verdicts import render
from eman.platform.errors import UserError
from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.claims.deciding import Round, next_round, read_decisions, sequential_verdicts
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest, command

pytestmark = pytest.mark.usefixtures("store_file")

#: Two claims that share the runs of EMAN, and one that is true of nothing.
NAMES = ("fixmatch-eman-bn", "fixmatch-eman-default", "fixmatch-shufflebn-bn")

#: Accuracy of a scheme's runs: EMAN is far above BN, hardly above the default; ShuffleBN is BN.
LEVELS = {"bn": 60.0, "eman": 66.0, "default": 65.8, "shufflebn": 60.0}


def request(most: int = 12) -> SweepRequest:
    return SweepRequest(claims=NAMES, family=NAMES, profile="smoke", max_seeds=most)


def run(made: Round, store: Store) -> None:
    """Record the runs of a round instead of training them, and the round's sweep."""
    done = store.by_key(TRAINING, list(made.sweep.trainings))
    for key, spec in made.sweep.trainings.items():
        if key not in done:
            scheme = "default" if spec.norm.teacher_norm == "student" else str(spec.norm.teacher_norm)
            noise = float(np.random.default_rng([spec.seed, len(scheme)]).normal())
            log = store.begin(TRAINING, key, "x", params={}, tags={})
            log.finish({"test/top1": LEVELS[scheme] + noise})
    tags = {"eman.request": made.sweep.request.model_dump_json()}
    store.begin(SWEEP, made.sweep.key, "x", params={}, tags=tags).finish({})


def following(store: Store, hours: float | None = None, speeds: float = 0.0) -> Round | None:
    known = {"fixmatch": speeds} if speeds else {}
    return next_round(request(), read_decisions(request(), store), store, known, hours)


def test_seeds_go_where_claims_are_undecided() -> None:
    store = Store(Workspace.from_environment())
    rounds = []
    while (made := following(store)) is not None:
        rounds.append(made)
        run(made, store)
    assert [r.seeds for r in rounds] == sorted({r.seeds for r in rounds}) and rounds[0].seeds == 4
    assert len(rounds[0].claims) == 3 and rounds[0].new == 16  # of 24: claims share runs
    by_name = {claim.name: decision for claim, decision in read_decisions(request(), store).items()}
    assert by_name["fixmatch-eman-bn"].outcome is VerdictKind.SUPPORTED
    assert by_name["fixmatch-eman-bn"].looked < 12
    assert by_name["fixmatch-shufflebn-bn"].outcome is VerdictKind.NOT_SHOWN
    trained = len(store.records(TRAINING))
    assert trained < 4 * 12  # four schemes with twelve seeds each
    assert following(store) is None and len(store.records(TRAINING)) == trained

    verdicts = {claim.name: verdict for claim, verdict in sequential_verdicts(plan(request()).request, store).items()}
    assert verdicts.keys() == set(NAMES)
    found = verdicts["fixmatch-eman-bn"]
    assert found.evidence.n == by_name["fixmatch-eman-bn"].looked and (found.p or 1) <= 0.05
    printed = render(list(verdicts.values()), "text")
    assert "of the last look" in printed and "Holm" not in printed


def test_a_budget_leaves_out_what_costs_most() -> None:
    store = Store(Workspace.from_environment())
    whole = following(store, speeds=1.0)
    assert whole is not None and whole.hours is not None
    part = following(store, hours=0.6 * whole.hours, speeds=1.0)
    assert part is not None and part.hours is not None
    assert part.hours <= 0.6 * whole.hours and part.postponed
    assert {*part.claims, *part.postponed} == set(whole.claims)
    assert following(store, hours=0.01 * whole.hours, speeds=1.0) is None


def test_claims_beyond_the_budget_are_corrected_for() -> None:
    """A verdict needs as much evidence as its decision did, also while the budget leaves other claims out."""
    store = Store(Workspace.from_environment())
    whole = following(store, speeds=1.0)
    assert whole is not None and whole.hours is not None
    part = following(store, hours=0.6 * whole.hours, speeds=1.0)
    assert part is not None and part.postponed
    run(part, store)
    verdicts = sequential_verdicts(plan(request()).request, store)
    assert {claim.name for claim in verdicts} == set(NAMES)
    decided = read_decisions(request(), store)
    assert {c: v.outcome for c, v in verdicts.items() if decided[c].outcome} == {
        c: d.outcome for c, d in decided.items() if d.outcome
    }
    assert all(verdicts[claim].outcome is VerdictKind.NOT_RUN for claim in part.postponed)
    assert command(part.sweep.request).split()[2:5] == list(NAMES)


def test_results_of_another_command_count() -> None:
    """Decisions are read from the store, so it does not matter who ran the seeds."""
    store = Store(Workspace.from_environment())
    first = following(store)
    assert first is not None
    run(first, store)
    decided = read_decisions(request(), store)
    assert all(decision.looked == 4 for decision in decided.values())


def test_the_request_of_a_round_says_how_to_go_on() -> None:
    made = following(Store(Workspace.from_environment()))
    assert made is not None
    words = command(made.sweep.request)
    assert words == "eman decide " + " ".join(NAMES) + " --profile smoke --max-seeds 12"
    assert SweepRequest.from_json(made.sweep.request.model_dump_json()) == made.sweep.request


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("4h", 14_400), ("1.5d", 129_600)])
def test_budgets_have_units(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["4", "h", "-1h", "0h", "1e9h", ""])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="give a time such as"):
        parse_budget(text)


def test_a_dry_run_prints_the_next_round(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", *NAMES, "--profile", "smoke", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "decided: 0 of 3 claims" in printed and "3 claims to 4 seeds, 16 new trainings" in printed
    assert main(["decide", *NAMES, "--profile", "smoke", "--seeds", "3"]) == 2
    assert "--max-seeds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_claim_is_decided_by_real_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", "fixmatch-in-eman", "--profile", "smoke", "--max-seeds", "2"]) == 0
    assert "decided: 1 of 1 claim" in capsys.readouterr().err
    assert main(["claims", "fixmatch-in-eman", "--profile", "smoke"]) == 0
    assert "1 claim: 1" in capsys.readouterr().out
