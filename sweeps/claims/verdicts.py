"""Verdicts on the claims that a sweep's tables can decide."""

from eman.evaluation.results.claims import Verdict, index_cells, judge, measure
from eman.evaluation.results.values import Results
from eman.platform.store.store import Store
from eman.sweeps.claims.deciding import sequential_verdicts
from eman.sweeps.claims.registry import claims_about
from eman.sweeps.plan import Sweep


def verdicts_of(sweep: Sweep, results: Results, store: Store) -> list[Verdict]:
    """Return the verdicts on claims about a sweep's cells, from its seeds; none before there is a result.

    A sweep of `eman decide` has the verdicts of all its rounds, as `eman claims` prints them.
    """
    if sweep.request.max_seeds:
        return list(sequential_verdicts(sweep.request, store).values())
    cells = index_cells(sweep.tables)
    verdicts = judge({claim: measure(claim, cells, results) for claim in claims_about(cells)})
    return verdicts if any(verdict.evidence.n for verdict in verdicts) else []
