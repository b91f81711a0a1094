"""Verdicts as text, Markdown, LaTeX, CSV, Parquet and JSON."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eman.evaluation.results.claims import Expect, Verdict, VerdictKind
from eman.evaluation.results.evidence import LEVEL, MOST_NEEDED, POWER, seeds_needed
from eman.evaluation.results.render import LATEX, plain

if TYPE_CHECKING:
    import pandas as pd

#: Fewest seeds from which a standard deviation is taken.
LEAST_SEEDS = 3

#: Columns of the printed forms.
HEADINGS = ("claim", "paper", "here", "seeds", "p", "detectable", "verdict")

#: Columns of the long form.
LONG_COLUMNS = (
    "name", "claim", "source", "expect", "paper", "difference", "low", "high", "seeds", "failed", "missing", "test",
    "p", "p_corrected", "detectable", "verdict",
)  # fmt: skip


def frame(verdicts: Sequence[Verdict]) -> "pd.DataFrame":
    """Return one row per claim with the columns of :data:`LONG_COLUMNS`."""
    import pandas as pd

    rows = []
    for v in verdicts:
        e = v.evidence
        interval = (
            (e.mean - e.half_width, e.mean + e.half_width)
            if e.mean is not None and e.half_width is not None
            else (None, None)
        )
        rows.append(
            (v.claim.name, v.claim.says, v.claim.source, v.claim.expect.value, v.published, e.mean, *interval, e.n,
             v.failed, v.missing, e.test, e.p, v.p, e.detectable, v.text)
        )  # fmt: skip
    numbers = ("difference", "low", "high", "p", "p_corrected", "detectable")
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS)).astype(dict.fromkeys(numbers, "float64"))


def render(verdicts: Sequence[Verdict], form: str) -> str:
    """Return verdicts as text, Markdown, LaTeX or CSV."""
    if form == "csv":
        return frame(verdicts).to_csv(index=False, float_format="%.4f").rstrip("\n")
    return {"text": text, "markdown": markdown, "latex": latex}[form](verdicts)


def text(verdicts: Sequence[Verdict]) -> str:
    """Return aligned columns, by source, and how to read them."""
    rows = [row(v) for v in verdicts]
    widths = [max(len(cells[i]) for cells in [HEADINGS, *rows]) for i in range(len(HEADINGS))]
    last = len(HEADINGS) - 1

    def line(cells: Sequence[str]) -> str:
        padded = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in padded).rstrip()

    lines, source = [line(HEADINGS)], ""
    for verdict, cells in zip(verdicts, rows, strict=True):
        if verdict.claim.source != source:
            source = verdict.claim.source
            lines += ["", source]
        lines.append(line(cells))
    return "\n".join([*lines, "", *notes(verdicts)])


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return a table and, below it, the notes."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 2) + "---|"]
    lines += ["| " + " | ".join(map(plain, row(v))) + " |" for v in verdicts]
    return "\n".join([*lines, "", *(f"{line}  " for line in notes(verdicts))]).rstrip()


def latex(verdicts: Sequence[Verdict]) -> str:
    """Return a ``tabular`` with booktabs rules."""
    lines = [r"\begin{tabular}{l" + "r" * (len(HEADINGS) - 2) + "l}", r"\toprule", " & ".join(HEADINGS) + r" \\"]
    lines += [r"\midrule", *(" & ".join(cell.translate(LATEX) for cell in row(v)) + r" \\" for v in verdicts)]
    return "\n".join(
        [*lines, r"\bottomrule", r"\end{tabular}", *(f"% {line}".translate(LATEX) for line in notes(verdicts))]
    )


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """Return how many verdicts of each kind there are, and how they were reached."""
    counts = [(o, sum(v.outcome is o for v in verdicts)) for o in VerdictKind]
    sequential = sum(v.sequential for v in verdicts)
    tested = sum(v.claim.expect is not Expect.FAILS for v in verdicts if not v.sequential)
    used = {v.evidence.n for v in verdicts if v.evidence.n}
    if not used:
        return [
            f"{count_claims(len(verdicts))}, none with results yet; `eman sweep 1 8 --seeds 8` runs Tables 1 and 8."
        ]
    holm = f", corrected for {tested} tests (Holm)" if tested > 1 else ""
    lines = [
        f"{count_claims(len(verdicts))}: {', '.join(f'{count} {o.value}' for o, count in counts if count)}.",
        f"Differences are means over seeds with 95 % intervals. p is that of no difference, or for claims of equality "
        f"of a difference as large as the margin{holm}; a verdict needs at most {LEVEL:g}. f: sign-flip test, exact; "
        f"t: paired t-test; s: sign test, where a row failed.",
        f"Detectable: the difference that this number of seeds finds with {100 * POWER:g} % probability at the "
        f"corrected level, from the spread of the differences.",
    ]
    spread = median_deviation(verdicts)
    if spread is not None:
        whole, tenth = (seeds_needed(spread, difference) for difference in (1.0, 0.1))
        lines.append(
            f"One such test alone, of differences that vary by {spread:.2g} (the median here), finds a difference of "
            f"1.0 with {_seeds(whole)} and one of 0.1 with {_seeds(tenth)}."
        )
    if sequential:
        lines.append(
            f"`eman decide` chose the seeds of {count_claims(sequential)}: p is that of the last look, corrected for "
            f"the other looks and for all claims that it decides (Bonferroni)."
        )
    if min(used) < 6:
        lines.append("With fewer than six seeds no exact two-sided test can reach 5 %; a t-test assumes normal values.")
    failing = [v for v in verdicts if v.claim.expect is Expect.FAILS and v.evidence.n]
    if failing:
        lines.append("Claims of failure are counted, not tested: supported if every seed failed.")
    return lines


def median_deviation(verdicts: Sequence[Verdict]) -> float | None:
    """Return the median over claims of the standard deviation of their differences in percentage points, if any."""
    known = [v.evidence.deviation for v in verdicts if not v.claim.relative and v.evidence.n >= LEAST_SEEDS]
    found = [deviation for deviation in known if deviation]
    return statistics.median(found) if found else None


def _seeds(number: int | None) -> str:
    return f"more than {MOST_NEEDED:,} seeds" if number is None else f"{number:,} seeds"


def count_claims(number: int) -> str:
    """Return "1 claim" or "2 claims"."""
    return f"{number} claim{'s' * (number != 1)}"


def row(v: Verdict) -> tuple[str, ...]:
    """Return a verdict's cells under :data:`HEADINGS`."""
    e = v.evidence
    unit = "%" if v.claim.relative else ""
    if v.claim.expect is Expect.FAILS or e.mean is None:
        here = f"{v.failed} of {e.n} failed" if e.n else "-"
    else:
        here = f"{e.mean:+.1f}{unit}" + (f" ±{e.half_width:.1f}" if e.half_width is not None else "")
    letter = {"sign flip": " f", "t": " t", "sign": " s"}.get(e.test, "")
    p = "-" if v.p is None else (f"{v.p:.3f}" if v.p >= 0.0005 else "<0.001") + letter
    found = "-" if e.detectable is None or v.claim.expect is Expect.FAILS else f"{e.detectable:.1f}{unit}"
    return (v.claim.says, v.published, here, str(e.n) if e.n else "-", p, found, v.text)
