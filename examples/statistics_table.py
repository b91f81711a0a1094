"""A table and two claims on whose running statistics EMAN should average: device 0's, or the mean over devices."""

from functools import partial

from eman.api import CellRef, Claim, Contrast, Expect, Scope, Table, Wanted, register_claim, register_table

NAME = "statistics"
METHODS = {"fixmatch": "FixMatch", "byol": "BYOL"}

#: Rows: their titles, and the fields that make their runs.
ROWS = {"of device 0": {"device_statistics": "device0"}, "mean over devices": {"device_statistics": "mean"}}


def result(scope: Scope, row: str, method: str, seed: int) -> Wanted:
    """Return the result of a seed: as in Table 1, a classifier's accuracy or that of the linear evaluation."""
    return scope.standard(scope.run(method, "eman", seed, **ROWS[row]))


def table(scope: Scope) -> Table:
    """Return the table at a scale: a cell for each row and method, whose results are one run per seed."""
    cells = [
        scope.cell(NAME, row, title, partial(result, scope, row, method), "-")  # the paper has no such number
        for row in ROWS
        for method, title in METHODS.items()
    ]
    note = scope.standard_note(tuple(METHODS))
    contrasts = (("mean over devices", "of device 0"),)  # tested in each column if there are several seeds
    return scope.table(NAME, "Whose statistics EMAN averages", cells, note, side="statistics", contrasts=contrasts)


register_table(NAME, table)
for method, title in METHODS.items():
    register_claim(
        Claim(
            name=f"statistics-{method}",
            says=f"{title}: it does not matter whose statistics EMAN averages.",
            source="ours",
            contrast=Contrast(CellRef(NAME, "mean over devices", title), CellRef(NAME, "of device 0", title)),
            expect=Expect.EQUAL,
            margin=1.0,  # points
        )
    )
