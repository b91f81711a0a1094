"""Claims as data, and their verdicts.

A claim compares cells of tables: ``first`` minus ``second``, seed by seed. Verdicts that are given together are
corrected for multiple testing (Holm), so that the probability of any wrong one among them is at most 5 %.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum

from eman.evaluation.results import evidence as statistics
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.evaluation.results.evidence import LEVEL, Evidence
from eman.evaluation.results.values import Results

#: Cells by table, row and column.
Cells = Mapping[tuple[str, str, str], Cell]


class Expect(Enum):
    """What a claim says about ``first`` compared with ``second``."""

    HIGHER = "higher"
    LOWER = "lower"
    EQUAL = "equal"
    FAILS = "fails"


@dataclass(frozen=True)
class CellRef:
    """A cell of a table, or another metric of the trainings behind it.

    Attributes:
        table: The table's name, for example ``table1``.
        row, column: Titles.
        metric: A metric of the trainings; empty for the cell's own result.
    """

    table: str
    row: str
    column: str
    metric: str = ""


@dataclass(frozen=True)
class Contrast:
    """The result in ``first`` minus that in ``second``."""

    first: CellRef
    second: CellRef


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that runs can support or contradict.

    Attributes:
        name: Name on the command line.
        says: The sentence.
        source: Where the paper says it, or ``ours``.
        contrast: The cells to compare; both are the same cell for ``Expect.FAILS``.
        minus: A contrast to subtract, for claims about differences of differences.
        expect: What is said about the difference.
        margin: Largest difference that counts as equal, in the unit of the difference; for ``Expect.EQUAL``.
        relative: State the difference in percent of ``second``, for quantities that are not percentages.
    """

    name: str
    says: str
    source: str
    contrast: Contrast
    minus: Contrast | None = None
    expect: Expect
    margin: float | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        if (self.expect is Expect.EQUAL) != (self.margin is not None):
            raise ValueError(f"claim {self.name}: a margin belongs to claims of equality, and they need one")

    @property
    def refs(self) -> tuple[CellRef, ...]:
        """The cells that the claim needs, each once."""
        contrasts = [self.contrast, *([self.minus] if self.minus else [])]
        return tuple(dict.fromkeys(ref for c in contrasts for ref in (c.first, c.second)))

    def published(self, cells: Cells) -> str:
        """Return the paper's difference; ``failed`` if one of its rows failed, ``-`` if the paper has none.

        For a claim of failure it is the paper's value.
        """
        values = ["-" if ref.metric else cells[ref.table, ref.row, ref.column].paper for ref in self.refs]
        if self.expect is Expect.FAILS:
            return values[0]
        if "failed" in values:
            return "failed"
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return "-"
        return f"{_difference(self, dict(zip(self.refs, numbers, strict=True))):+.1f}"


class VerdictKind(Enum):
    """What runs say about a claim."""

    SUPPORTED = "supported"
    EQUIVALENT = "equivalent"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """A claim, what its runs show, and what follows.

    Attributes:
        evidence: Over the seeds for which both sides have a result.
        published: The paper's difference, as printed.
        p: Corrected p of the claim's test; ``None`` for claims of failure, which are counted, or with too few seeds.
        failed: Seeds in which ``first`` failed.
        missing: Number of seeds with some of the claim's results, but not all.
        sequential: Whether the results chose the number of seeds, so that p is that of the last look.
    """

    claim: Claim
    outcome: VerdictKind
    evidence: Evidence
    published: str
    p: float | None
    failed: int
    missing: int
    sequential: bool = False

    @property
    def text(self) -> str:
        """The verdict in words."""
        return (
            f"equivalent within {self.claim.margin:g}" if self.outcome is VerdictKind.EQUIVALENT else self.outcome.value
        )


@dataclass(frozen=True)
class Measured:
    """A claim's results.

    Attributes:
        published: The paper's difference, as printed.
        differences: By seed, infinite if only one side failed.
        failed: Seeds in which ``first`` failed.
        missing: Number of seeds with some of the claim's results, but not all.
    """

    published: str
    differences: Mapping[int, float]
    failed: Set[int] = frozenset()
    missing: int = 0

    @property
    def values(self) -> tuple[float, ...]:
        """The differences."""
        return tuple(self.differences.values())

    @property
    def unbroken(self) -> int:
        """Number of seeds before the first that has no difference, counted from seed 0."""
        return next(seed for seed in itertools.count() if seed not in self.differences)

    def first(self, seeds: int) -> "Measured":
        """Return the results of the seeds below a number."""
        kept = {seed: self.differences[seed] for seed in sorted(self.differences) if seed < seeds}
        return Measured(self.published, kept, frozenset(seed for seed in self.failed if seed < seeds))

    def __or__(self, other: "Measured") -> "Measured":
        """Return the results of both, which are of the same claim and of different seeds."""
        differences = {**self.differences, **other.differences}
        return Measured(self.published, differences, self.failed | other.failed, self.missing + other.missing)


def index_cells(tables: Iterable[Table]) -> Cells:
    """Return the cells of some tables by table, row and column."""
    return {(table.name, cell.row, cell.column): cell for table in tables for cell in table.cells}


def wanted_at(ref: CellRef, cells: Cells) -> tuple[Wanted, ...]:
    """Return the results of a cell, one per seed."""
    wanted = cells[ref.table, ref.row, ref.column].wanted
    return tuple(Wanted(item.run, (), ref.metric) for item in wanted) if ref.metric else wanted


def measure(claim: Claim, cells: Cells, results: Results) -> Measured:
    """Look up a claim's results.

    Raises:
        KeyError: A table has no such cell.
    """
    by_ref = {ref: _by_seed(wanted_at(ref, cells), results) for ref in claim.refs}
    first = by_ref[claim.contrast.first]
    complete = [seed for seed in first if all(seed in values for values in by_ref.values())]
    failed = frozenset(seed for seed in complete if first[seed] == -math.inf)
    differences = {s: _difference(claim, {ref: found[s] for ref, found in by_ref.items()}) for s in complete}
    begun = {seed for values in by_ref.values() for seed in values}
    return Measured(claim.published(cells), differences, failed, len(begun) - len(complete))


def judge(measured: Mapping[Claim, Measured]) -> list[Verdict]:
    """Return the verdicts on claims that are tested together.

    Claims of failure are counted, not tested: supported if all seeds failed, contradicted if none did.
    """
    tested = [claim for claim in measured if claim.expect is not Expect.FAILS]
    level = LEVEL / max(len(tested), 1)
    found = {claim: statistics.evidence(m.values, level) for claim, m in measured.items()}
    ps = [single_p(claim, measured[claim], found[claim]) for claim in tested]
    known = [(claim, p) for claim, p in zip(tested, ps, strict=True) if p is not None]
    # A claim that has not been run yet still counts: it is a test of the same family.
    corrected = statistics.holm([*(p for _, p in known), *[1.0] * (len(tested) - len(known))])
    by_claim = {claim: p for (claim, _), p in zip(known, corrected, strict=False)}
    return [
        Verdict(
            claim, _outcome(claim, m, found[claim], by_claim.get(claim)), found[claim], m.published,
            by_claim.get(claim), len(m.failed), m.missing,
        )
        for claim, m in measured.items()
    ]  # fmt: skip


def _by_seed(wanted: Sequence[Wanted], results: Results) -> dict[int, float]:
    """Return the results that exist, by seed; a run that failed and would fail again counts as minus infinity."""
    values = {}
    for item in wanted:
        value, _, _ = results.one(item)
        if value is not None or results.collapsed(item):
            values[item.run.seed] = -math.inf if value is None else value
    return values


def _difference(claim: Claim, values: Mapping[CellRef, float]) -> float:
    def of(contrast: Contrast) -> float:
        first, second = values[contrast.first], values[contrast.second]
        if first == second:  # also two failures
            return 0.0
        return 100 * (first / second - 1) if claim.relative else first - second

    whole = of(claim.contrast)
    if claim.minus is None:
        return whole
    less = of(claim.minus)
    return 0.0 if whole == less else whole - less


def single_p(claim: Claim, measured: Measured, found: Evidence) -> float | None:
    """Return the uncorrected p by which a claim is judged; a claim of equality is tested in both directions."""
    if claim.margin is None or found.mean is None or found.p is None:
        return found.p
    inside = statistics.equivalence_p(measured.values, claim.margin)
    outside = statistics.beyond_p(measured.values, claim.margin)
    return min(1.0, 2 * min(inside, outside))


def judge_one(claim: Claim, measured: Measured, level: float) -> VerdictKind:
    """Return what results say about a single claim, tested at a level of its own."""
    found = statistics.evidence(measured.values, level)
    return _outcome(claim, measured, found, single_p(claim, measured, found), level)


def _outcome(claim: Claim, measured: Measured, found: Evidence, p: float | None, level: float = LEVEL) -> VerdictKind:
    if not found.n:
        return VerdictKind.NOT_RUN
    if claim.expect is Expect.FAILS:
        if len(measured.failed) == found.n:
            return VerdictKind.SUPPORTED
        return VerdictKind.NOT_SHOWN if measured.failed else VerdictKind.CONTRADICTED
    if p is None or p > level:
        return VerdictKind.NOT_SHOWN
    if claim.margin is not None:
        equal = found.mean is not None and abs(found.mean) <= claim.margin
        return VerdictKind.EQUIVALENT if equal else VerdictKind.CONTRADICTED
    higher = (sum(measured.values) if found.mean is not None else _signs(measured.values)) > 0
    return VerdictKind.SUPPORTED if higher == (claim.expect is Expect.HIGHER) else VerdictKind.CONTRADICTED


def _signs(differences: Sequence[float]) -> int:
    return sum((difference > 0) - (difference < 0) for difference in differences)
