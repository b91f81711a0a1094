"""A grid as a table: a column per method, a row per scheme and point of further fields."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from eman.evaluation.results.cells import Cell, Table
from eman.platform.errors import UserError
from eman.sweeps.request import SweepRequest, shown
from eman.sweeps.search.space import Range, axis, grid_points, random_points
from eman.sweeps.tables.schemes import SIDE
from eman.sweeps.tables.scope import Scope
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import TEACHER_NORMS
from eman.trainers.spec.build import resolve_scheme
from eman.trainers.spec.kinds import Value
from eman.trainers.spec.labels import scheme_label
from eman.trainers.spec.run import RunSpec

Fields = Mapping[str, Value]

#: Fields that a scheme sets and its title names.
NORM_FIELDS = ("student_norm", "teacher_norm", "student_proxy_momentum", "teacher_proxy_momentum", "eman_momentum")


@dataclass(frozen=True)
class Point:
    """A point of the grid, with one run per seed. `fields` are those that are searched, without a method's prefix."""

    method: str
    scheme: str
    fields: Fields
    runs: tuple[RunSpec, ...]

    @property
    def pair(self) -> str:
        """Method and scheme, as in `SweepRequest.points`."""
        return f"{self.method}/{self.scheme}"

    def row(self, *, full: bool = False) -> str:
        """Return the scheme's title and the other fields that vary; if ``full``, also those that the title implies."""
        fields = [f"{n} {shown(value)}" for n, value in self.fields.items() if full or n not in NORM_FIELDS]
        return " · ".join([scheme_label(self.runs[0]), *fields])


def grid_table(request: SweepRequest, scope: Scope) -> Table:
    """Return a grid as a table whose rows are compared with the first.

    Raises:
        UserError: A name is unknown, a value is not allowed, or an axis has no effect.
    """
    points = grid_points_of(request, scope)
    _check_axes_used(request)
    cells: dict[tuple[str, str], Cell] = {}
    for row, point in _labelled(points):
        column = method_named(point.method).title
        wanted = tuple(scope.standard(run, request.linear_lr) for run in point.runs)
        cells[row, column] = Cell("grid", row, column, "-", wanted)
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = dict.fromkeys(column for _, column in cells)
    ordered = tuple(cells[row, column] for row in rows for column in columns if (row, column) in cells)
    note, contrasts = scope.standard_note(request.methods, request.linear_lr), [(row, rows[0]) for row in rows[1:]]
    return scope.table("grid", "Grid", ordered, note, side=SIDE, contrasts=contrasts)


def grid_points_of(request: SweepRequest, scope: Scope) -> list[Point]:
    """Return the points of a grid, method by method and scheme by scheme."""
    return [
        Point(method, scheme, fields, tuple(scope.run(method, scheme, seed, **fields) for seed in scope.seeds))
        for method in dict.fromkeys(request.methods)
        for scheme in dict.fromkeys(request.schemes)
        for fields in _fields(method, scheme, request)
    ]


def corner_runs(request: SweepRequest, scope: Scope) -> Iterator[RunSpec]:
    """Yield the runs at the lower and upper ends of all axes, for each method and scheme."""
    for method in dict.fromkeys(request.methods):
        for scheme in dict.fromkeys(request.schemes):
            axes = axes_of(request, method, scheme)
            for share in (0, -1):
                fields = {name: axis(values, 2)[share] for name, values in axes.items()}
                yield scope.run(method, scheme, scope.seeds[0], **fields)


def axes_of(request: SweepRequest, method: str, scheme: str) -> dict[str, Sequence[Value] | Range]:
    """Return the axes that have an effect on a method and a scheme, by field."""
    return {n.rpartition(".")[2]: values for n, values in request.axes.items() if _applies(n, method, scheme)}


def _fields(method: str, scheme: str, request: SweepRequest) -> Iterator[Fields]:
    axes = axes_of(request, method, scheme)
    if request.search == "grid" or not axes:
        yield from grid_points(axes, request.samples)
    elif request.search == "random":
        yield from random_points(axes, request.samples, request.search_seed)
    else:
        yield from request.points.get(f"{method}/{scheme}", ())


def _applies(field: str, method: str, scheme: str) -> bool:
    """Return whether an axis has an effect on a method and a scheme."""
    owner, dot, name = field.rpartition(".")
    if dot:
        method_named(owner)
        return owner == method
    teacher = TEACHER_NORMS[resolve_scheme(method, scheme).teacher]
    used = {"eman_momentum": teacher.averages_statistics, "teacher_proxy_momentum": teacher.collects}
    return used.get(name, True)


def _check_axes_used(request: SweepRequest) -> None:
    for name in request.axes:
        if not any(_applies(name, method, scheme) for method in request.methods for scheme in request.schemes):
            raise UserError(
                f"--{'range' if name in request.ranges else 'grid'} {name} has no effect on "
                f"{', '.join(request.methods)} with {', '.join(request.schemes)}; leave it out, or add a method or a "
                f"scheme that has it."
            )


def _labelled(points: Sequence[Point]) -> Iterator[tuple[str, Point]]:
    """Yield each distinct point with its row. Points that would share a cell get separate rows.

    Raises:
        UserError: Different runs have the same row.
    """
    distinct: dict[tuple[str, str], Point] = {}
    for point in points:
        distinct.setdefault((point.method, point.runs[0].key), point)
    rows = Counter((point.method, point.row()) for point in distinct.values())
    used = set()
    for point in distinct.values():
        row = point.row(full=rows[point.method, point.row()] > 1)
        if (point.method, row) in used:
            raise UserError(f"two runs of {point.method} would share the row {row!r}; plan them in two grids.")
        used.add((point.method, row))
        yield row, point
