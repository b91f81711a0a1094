"""Tables as data: the results behind each cell, how they are selected, and the paper's values.

Planning a sweep and printing a table use the same cells: to find the distinct runs, and to find their results in the
store.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results import paper
from eman.platform.errors import UserError
from eman.trainers.spec.run import RunSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """One result behind a cell: a metric of a training, or of one of its evaluations.

    Attributes:
        run: The training.
        evaluations: A learning-rate grid; empty for a metric of the training.
        metric: Name of the result.
        select_by: Metric that chooses the evaluation, the highest value winning.
    """

    run: RunSpec
    evaluations: tuple[EvalSpec, ...]
    metric: str
    select_by: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the mean over its wanted results, one per seed; none if the paper quotes others' work.

    Raises:
        UserError: Two results have the same seed, so one would hide the other.
    """

    table: str
    row: str
    column: str
    paper: str
    wanted: tuple[Wanted, ...]

    @property
    def results(self) -> tuple[tuple[str, ...], ...]:
        """What identifies the results behind the cell; equal for two cells that the same runs fill."""
        return tuple(
            (wanted.run.key, wanted.metric, *(spec.key for spec in wanted.evaluations)) for wanted in self.wanted
        )

    def __post_init__(self) -> None:
        for seed in _repeated(wanted.run.seed for wanted in self.wanted):
            raise UserError(
                f"cell {self.row!r}, {self.column!r} has several results of seed {seed}; give each a row of its own, "
                f"or leave all but one out."
            )


@dataclass(frozen=True)
class Table:
    """A table at a scale.

    Attributes:
        name: Name on the command line, for example ``table1``.
        title: Title, without the number.
        contrasts: Pairs of rows whose difference is tested in each column, the first minus the second.
        side: Heading of the row titles.
        reference: Name of the reference values: `paper`, or another store.
        labels: Rows and what to print for them, where their runs have other momenta than the paper's.

    Raises:
        UserError: Two cells have the same row and column, so one would hide the other.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    contrasts: tuple[tuple[str, str], ...] = ()
    side: str = "student / teacher"
    reference: str = "paper"
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for row, column in _repeated((cell.row, cell.column) for cell in self.cells):
            raise UserError(
                f"{self.heading}: several different runs would stand in the cell {row!r}, {column!r}; vary a field "
                f"that their titles show, or ask for them one by one."
            )

    @property
    def label(self) -> str:
        """Short name: ``Table 1`` for a table of the paper, else the title."""
        number = paper.number(self.name)
        return self.title if number is None else f"Table {number}"

    @property
    def heading(self) -> str:
        """Number, if the paper has the table, and title."""
        return self.title if self.label == self.title else f"{self.label}. {self.title}"

    @property
    def rows(self) -> tuple[str, ...]:
        """Titles of the rows, in order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    def printed(self, row: str) -> str:
        """Return a row's title for people: with the momenta of its runs, as in their own titles."""
        return dict(self.labels).get(row, row)

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the columns, in order."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))


def wanted_by(tables: Iterable[Table]) -> tuple[Wanted, ...]:
    """Return all results behind the cells of some tables, cell by cell, with repetitions."""
    return tuple(wanted for table in tables for cell in table.cells for wanted in cell.wanted)


def _repeated(items: Iterable[T]) -> list[T]:
    return [item for item, count in Counter(items).items() if count > 1]
