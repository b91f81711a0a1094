"""All claims by name, the cells that they need, and their verdicts from the store."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eman.evaluation.results.cells import Table
from eman.evaluation.results.claims import Cells, Claim, Measured, index_cells, measure
from eman.evaluation.results.values import Results
from eman.platform.errors import UserError, unknown
from eman.platform.registry import Registry
from eman.sweeps.claims import ours, paper
from eman.sweeps.request import MAX_SEEDS
from eman.sweeps.tables.registry import TABLES, is_table, table_name
from eman.sweeps.tables.scope import Scope

if TYPE_CHECKING:
    from eman.platform.store.store import Store

#: Every claim by name; :func:`register_claim` adds to it.
CLAIMS = Registry[Claim]("claim", reserved=("grid", "claims"))


def register_claim(claim: Claim) -> None:
    """Add a claim about tables that are registered.

    Raises:
        UserError: Its name is taken or is a table's, or a table is unknown.
    """
    for ref in claim.refs:
        if ref.table not in TABLES:
            raise UserError(f"claim {claim.name!r} is about table {ref.table!r}; register that table first.")
    if is_table(claim.name):
        raise UserError(f"claim {claim.name!r} has a table's name; give another.")
    CLAIMS.add(claim.name, claim)


for _claim in (*paper.CLAIMS, *ours.CLAIMS):
    register_claim(_claim)

#: Seeds that are looked up at once, until none of them has a result.
_BLOCK = 8


def claims_named(words: Sequence[str]) -> tuple[Claim, ...]:
    """Return claims by name, or by the tables (``1``, ``table8``) that they are about; all without words.

    Raises:
        UserError: There is no such claim, or none about such a table.
    """
    chosen: dict[str, Claim] = {}
    for word in words:
        table = table_name(word)
        found = [CLAIMS[word]] if word in CLAIMS else [c for c in CLAIMS.values() if c.refs[0].table == table]
        if not found and table in TABLES:
            raise UserError(f"no claim is about {table}; give one of {', '.join(_tables(CLAIMS.values()))}.")
        if not found:
            raise unknown("claim or table", word, [*CLAIMS, *_tables(CLAIMS.values())])
        chosen |= {claim.name: claim for claim in found}
    return tuple(chosen.values()) if words else tuple(CLAIMS.values())


def claims_about(cells: Cells) -> list[Claim]:
    """Return the claims that some cells decide: those whose cells are all among them."""
    return [c for c in CLAIMS.values() if all((ref.table, ref.row, ref.column) in cells for ref in c.refs)]


def tables_of(claims: Sequence[Claim], scope: Scope) -> list[Table]:
    """Return the tables that claims are about, with only the cells that they need."""
    needed = {(ref.table, ref.row, ref.column) for claim in claims for ref in claim.refs}
    tables = [TABLES[name](scope) for name in _tables(claims)]
    return [replace(t, cells=tuple(c for c in t.cells if (t.name, c.row, c.column) in needed)) for t in tables]


def claim_results(
    claims: Sequence[Claim], scope: Scope, store: "Store", seeds: Sequence[int] | None = None
) -> dict[Claim, Measured]:
    """Return the results of claims in the store.

    Args:
        claims: The claims.
        scope: The scale; its seeds are replaced.
        store: Where the results are.
        seeds: Seeds to use; ``None`` for all that have results.
    """
    known = range(MAX_SEEDS) if seeds is None else seeds
    found: dict[Claim, Measured] = {}
    for start in range(0, len(known), _BLOCK):
        tables = tables_of(claims, replace(scope, seeds=tuple(known[start : start + _BLOCK])))
        results, cells = Results.read(store, tables), index_cells(tables)
        new = {claim: measure(claim, cells, results) for claim in claims}
        found = {claim: found[claim] | new[claim] for claim in claims} if found else new
        if seeds is None and not any(m.differences or m.missing for m in new.values()):
            break
    return found


def _tables(claims: Iterable[Claim]) -> list[str]:
    names = {ref.table for claim in claims for ref in claim.refs}
    return [name for name in TABLES if name in names]
