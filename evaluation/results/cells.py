"""Tables as data: the results behind each cell, how they are selected, and the paper's values.

Planning a sweep and printing a table use the same cells: to find the distinct runs, and to find their results in the
store.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from eman.evaluation.protocols.spec import EvalSpec
from eman.platform.errors import UserError
from eman.trainers.spec.run import RunSpec


@dataclass(frozen=True)
class Wanted:
    """One result behind a cell: a metric of a training, or of one of its evaluations.

    Attributes:
        run: The training.
        evaluations: Where there are any, the one with the best ``select_by`` gives the result: a learning-rate grid.
        metric: The metric that is read.
        select_by: Metric by which an evaluation is chosen.
    """

    run: RunSpec
    evaluations: tuple[EvalSpec, ...]
    metric: str
    select_by: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the mean over its wanted results, one a seed; none where the paper quotes others' work.

    Raises:
        UserError: Two results have the same seed, so that one would hide the other.
    """

    table: int
    row: str
    column: str
    paper: str
    wanted: tuple[Wanted, ...]

    def __post_init__(self) -> None:
        seeds = Counter(wanted.run.seed for wanted in self.wanted)
        twice = next((seed for seed, count in seeds.items() if count > 1), None)
        if twice is not None:
            raise UserError(
                f"cell {self.row!r}, {self.column!r} has several results of seed {twice}; give each of them a row of "
                f"its own, or leave all but one out."
            )


@dataclass(frozen=True)
class Table:
    """A table of the paper, at a profile.

    Attributes:
        contrasts: Pairs of rows whose difference is tested in each column, the first minus the second.
        side: Heading of the row titles.
        reference: Name of the reference values: `paper`, or another store.

    Raises:
        UserError: Two cells have the same row and column, so that one would hide the other.
    """

    number: int
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    contrasts: tuple[tuple[str, str], ...] = ()
    side: str = "student / teacher"
    reference: str = "paper"

    def __post_init__(self) -> None:
        places = Counter((cell.row, cell.column) for cell in self.cells)
        twice = next((place for place, count in places.items() if count > 1), None)
        if twice is not None:
            raise UserError(
                f"{self.heading}: several different runs would stand in the cell {twice[0]!r}, {twice[1]!r}; vary a "
                f"field that their titles show, or ask for them one by one."
            )

    @property
    def heading(self) -> str:
        """Number and title; a table that is not the paper's has no number."""
        return f"Table {self.number}. {self.title}" if self.number else self.title

    @property
    def rows(self) -> tuple[str, ...]:
        """Row titles in order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Column titles in order."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))


def wanted_by(tables: Iterable[Table]) -> tuple[Wanted, ...]:
    """Return all results behind the cells of some tables, cell by cell, with repetitions."""
    return tuple(wanted for table in tables for cell in table.cells for wanted in cell.wanted)
