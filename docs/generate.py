"""Write the generated parts of pages: `python docs/generate.py`. `make docs` does so first, and a test compares.

A part stands between the comments `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from eman.trainers.norm.schemes import SCHEMES

DOCS = Path(__file__).resolve().parent

#: Schemes of docs/library-teachers.md, and the table that has them.
LIBRARY_SCHEMES = {"bn": 1, "syncbn": 1, "shufflebn": 1, "eman": 1, "student-pn-0.9": 8, "student-pn-0.999": 8}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns but the first are right-aligned if ``head`` ends in a space."""
    lines = [head, ["---:" if name.endswith(" ") else "---" for name in head], *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines) + "\n"


def library_results() -> str:
    """Return the rows of Tables 1 and 8 that are libraries' rules, from the committed results."""
    results = pd.read_parquet(DOCS / "results" / "mini.parquet").set_index(["table", "row", "column"])
    methods = list(dict.fromkeys(results.index.get_level_values("column")))
    rows = []
    for name, table in LIBRARY_SCHEMES.items():
        rows.append([f"`{name}`"])
        for method in methods:
            cell = results.loc[table, SCHEMES[name].title, method]
            rows[-1] += [f"{cell.value:.1f} ±{cell.spread:.1f}", cell.paper]
    head = ["row", *(title for method in methods for title in (f"{method} ", "paper "))]
    first = results.iloc[0]
    arguments = f"--profile {first.profile} --seeds {len(first.seeds.split(','))}"
    return (
        f"{markdown(head, rows)}\n"
        f"`eman sweep table1 table8 {arguments}`, revision `{first.git}`: means and standard deviations over seeds.\n"
        f"`eman table 1 8 {arguments}` prints them. [Results](results.md) has the whole tables and says what they\n"
        "measure.\n"
    )


#: Generated parts by page and name.
PARTS: dict[str, dict[str, Callable[[], str]]] = {"library-teachers.md": {"library-results": library_results}}


def page(name: str) -> str:
    """Return a page with its parts as they should be.

    Raises:
        ValueError: The page lacks the comments of a part.
    """
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, made in PARTS[name].items():
        begin, end = f"<!-- begin {part} -->\n", f"<!-- end {part} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{name} has no part {part}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(name), encoding="utf-8")
