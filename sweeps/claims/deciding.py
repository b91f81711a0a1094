"""Choose how many seeds each claim gets, as results arrive and within a budget of hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eman.evaluation.results.claims import Claim, Expect, Measured, Verdict, index_cells, wanted_at
from eman.evaluation.results.evidence import LEVEL
from eman.evaluation.results.sequential import Decision, decide, looks, verdict
from eman.evaluation.results.values import Results
from eman.platform.store.records import SWEEP
from eman.platform.store.store import Store
from eman.sweeps.claims.registry import CLAIMS, claim_results, claims_named
from eman.sweeps.cost import training_hours
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest


@dataclass(frozen=True)
class Round:
    """What to run next.

    Attributes:
        sweep: The cells of the claims, up to the number of seeds of their next look.
        claims: The claims of this round.
        new: Number of trainings that are not done yet.
        hours: Estimated hours of their training in one process; ``None`` if a speed is unknown.
        postponed: Claims left out because the budget does not cover them.
    """

    sweep: Sweep
    claims: tuple[Claim, ...]
    new: int
    hours: float | None
    postponed: tuple[Claim, ...]

    @property
    def seeds(self) -> int:
        """Number of seeds after this round."""
        return len(self.sweep.request.seeds)


def level_of(claims: Sequence[Claim]) -> float:
    """Return the level of each tested claim, such that the level of all of them together is 5 % (Bonferroni)."""
    return LEVEL / max(sum(claim.expect is not Expect.FAILS for claim in claims), 1)


def decisions(claims: Sequence[Claim], results: Mapping[Claim, Measured], most: int) -> dict[Claim, Decision]:
    """Return the decision on each claim from its results so far."""
    level = level_of(claims)
    return {claim: decide(claim, results[claim], most=most, level=level) for claim in claims}


def read_decisions(request: SweepRequest, store: Store) -> dict[Claim, Decision]:
    """Return the decisions on a request's claims from the store."""
    claims, most = claims_named(request.family), request.max_seeds
    return decisions(claims, claim_results(claims, plan(request).scope, store, range(most)), most)


def sequential_verdicts(request: SweepRequest, store: Store) -> dict[Claim, Verdict]:
    """Return the verdicts on the claims whose seeds :func:`next_round` chose, at a request's scale.

    They are corrected together: the families of all such sweeps with the largest ``max_seeds``, which include claims
    that no sweep has run yet.
    """
    scale = ("profile", "network", "selection", "overrides", "ema_scaling", "precision")
    known = [SweepRequest.from_json(r.tags["eman.request"]) for r in store.records(SWEEP) if "eman.request" in r.tags]
    found = [r for r in known if r.max_seeds and all(getattr(r, name) == getattr(request, name) for name in scale)]
    if not found:
        return {}
    most = max(r.max_seeds for r in found)
    named = {name for r in found if r.max_seeds == most for name in r.family}
    claims = claims_named([name for name in CLAIMS if name in named])
    results = claim_results(claims, plan(request).scope, store, range(most))
    level = level_of(claims)
    return {
        claim: verdict(claim, results[claim], decision, most=most, level=level)
        for claim, decision in decisions(claims, results, most).items()
    }


def next_round(
    request: SweepRequest,
    decided: Mapping[Claim, Decision],
    store: Store,
    speeds: Mapping[str, float],
    hours: float | None = None,
) -> Round | None:
    """Return the next seeds of undecided claims; ``None`` if all are decided, or the budget covers none.

    Claims with the fewest seeds come first, and among these the cheapest: claims share runs, so a claim costs only the
    runs that the claims before it do not need.

    Args:
        request: Family of claims, scale, and the most seeds.
        decided: The decisions so far.
        store: Where the results are.
        speeds: Measured images per second, as for :func:`~eman.sweeps.cost.cost_of`.
        hours: Hours of one process that are left; ``None`` for no limit.
    """
    looked = {claim: decision.looked for claim, decision in decided.items() if decision.outcome is None}
    if not looked:
        return None
    look = next(look for look in looks(request.max_seeds) if look > min(looked.values()))
    waiting = [claim for claim, seeds in looked.items() if seeds < look]
    sweep = _sweep(request, waiting, look)
    results, cells = Results.read(store, sweep.tables), index_cells(sweep.tables)
    costs = {
        key: training_hours(spec, speeds)
        for key, spec in sweep.trainings.items()
        if not (key in results.trainings and (results.done(key) or results.trainings[key].final))
    }
    needs = {
        claim: {run.key for ref in claim.refs for item in wanted_at(ref, cells) for run in item.run.lineage}
        & costs.keys()
        for claim in waiting
    }
    chosen: list[Claim] = []
    keys = set[str]()

    def price(claim: Claim) -> float:
        return sum(costs[key] or 0.0 for key in keys | needs[claim])

    while waiting:
        cheapest = min(waiting, key=price)
        if hours is not None and price(cheapest) > hours:
            break
        waiting.remove(cheapest)
        chosen.append(cheapest)
        keys |= needs[cheapest]
    if not chosen:
        return None
    known = [costs[key] for key in keys]
    total = None if None in known else sum(cost for cost in known if cost is not None)
    ordered = tuple(claim for claim in decided if claim in chosen)
    return Round(_sweep(request, ordered, look), ordered, len(keys), total, tuple(waiting))


def _sweep(request: SweepRequest, claims: Sequence[Claim], seeds: int) -> Sweep:
    names = tuple(claim.name for claim in claims)
    return plan(request.model_copy(update={"claims": names, "seeds": tuple(range(seeds))}))
