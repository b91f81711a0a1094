"""Verdicts as text, Markdown, LaTeX, CSV, Parquet and JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eman.evaluation.results.claims import Expect, Verdict, VerdictKind
from eman.evaluation.results.evidence import LEVEL, POWER
from eman.evaluation.results.render import LATEX

if TYPE_CHECKING:
    import pandas as pd

_HEADINGS = ("claim", "paper", "here", "seeds", "p", "detectable", "verdict")

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
    rows = [_row(v) for v in verdicts]
    widths = [max(len(row[i]) for row in [_HEADINGS, *rows]) for i in range(len(_HEADINGS))]
    last = len(_HEADINGS) - 1

    def line(row: Sequence[str]) -> str:
        cells = [c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells).rstrip()

    lines, source = [line(_HEADINGS)], ""
    for verdict, row in zip(verdicts, rows, strict=True):
        if verdict.claim.source != source:
            source = verdict.claim.source
            lines += ["", source]
        lines.append(line(row))
    return "\n".join([*lines, "", *notes(verdicts)])


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return a table and, below it, the notes."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|" + "---:|" * (len(_HEADINGS) - 2) + "---|"]
    lines += ["| " + " | ".join(_row(v)) + " |" for v in verdicts]
    return "\n".join([*lines, "", *(f"{line}  " for line in notes(verdicts))]).rstrip()


def latex(verdicts: Sequence[Verdict]) -> str:
    """Return a ``tabular`` with booktabs rules."""
    lines = [r"\begin{tabular}{l" + "r" * (len(_HEADINGS) - 2) + "l}", r"\toprule", " & ".join(_HEADINGS) + r" \\"]
    lines += [r"\midrule", *(" & ".join(cell.translate(LATEX) for cell in _row(v)) + r" \\" for v in verdicts)]
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
        return [f"{len(verdicts)} claims, none with results yet; `eman sweep 1 8 --seeds 8` runs Tables 1 and 8."]
    holm = f", corrected for {tested} tests (Holm)" if tested else ""
    lines = [
        f"{len(verdicts)} claims: {', '.join(f'{count} {o.value}' for o, count in counts if count)}.",
        f"Differences are means over seeds with 95 % intervals. p is that of no difference, or for claims of equality "
        f"of a difference as large as the margin{holm}; a verdict needs at most {LEVEL:g}. f: sign-flip test, exact; "
        f"t: paired t-test; s: sign test, where a row failed.",
        f"Detectable: the difference that this number of seeds finds with {100 * POWER:g} % probability at the "
        f"corrected level, from the spread of the differences.",
    ]
    if sequential:
        lines.append(
            f"`eman decide` chose the seeds of {sequential} claims: their p is that of the last look, corrected for "
            f"the other looks and for all claims that it decides (Bonferroni)."
        )
    if min(used) < 6:
        lines.append("With fewer than six seeds no exact two-sided test can reach 5 %; a t-test assumes normal values.")
    failing = [v for v in verdicts if v.claim.expect is Expect.FAILS and v.evidence.n]
    if failing:
        lines.append("Claims of failure are counted, not tested: supported if every seed failed.")
    return lines


def _row(v: Verdict) -> tuple[str, ...]:
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
