"""Scope of a table: profile, seeds, overrides, and the networks to evaluate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eman.evaluation.headline import MONITOR_QUERIES
from eman.evaluation.protocols.labelled import prefix
from eman.evaluation.protocols.spec import EvalSpec, make_eval
from eman.evaluation.results import paper
from eman.evaluation.results.cells import Cell, Table, Wanted
from eman.sweeps.profiles.profile import Profile
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import DataSpec

#: Defaults of the fields that decide which epoch is the best.
RUN_DEFAULTS = {"held_out": DataSpec().held_out, "monitor_every": RunSpec.model_fields["monitor_every"].default}

#: Pairs of row titles: those whose difference is tested, the first minus the second; or a row and what to print.
Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The scope from which a table makes its cells.

    Attributes:
        profile: The scale.
        seeds: Seeds of every cell.
        overrides: Fields for every run. `METHOD.FIELD` applies to the runs of one method.
        network: The network to evaluate: `student` (as in the paper) or `teacher`. Runs without a separate teacher
            network are evaluated by their student.
        selection: The epoch to evaluate: the `last`, or the `best` monitored one.
    """

    profile: Profile
    seeds: Sequence[int] = (0,)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    network: str = "student"
    selection: str = "last"

    def run(self, method: str, scheme: str, seed: int, **fields: Any) -> RunSpec:
        """Return a run at this scale. The user's overrides win over `fields`."""
        return self.profile.run(method, scheme, seed, {**fields, **self.overrides})

    def evaluation(self, run: RunSpec, protocol: str, **fields: Any) -> EvalSpec:
        """Return an evaluation of a run: `fields` override the profile's values, which override the paper's."""
        chosen = {**self.profile.protocols.get(protocol, {}), **fields}
        return make_eval(protocol, run.key, network=self._network(run), selection=self.selection, **chosen)

    def result(self, run: RunSpec, protocol: str, metric: str, **fields: Any) -> Wanted:
        """Return a metric of one evaluation of a run."""
        return Wanted(run, (self.evaluation(run, protocol, **fields),), metric)

    def evaluations(
        self, run: RunSpec, protocol: str, fields: Mapping[str, Any], rates: Sequence[float] = ()
    ) -> tuple[EvalSpec, ...]:
        """Return the evaluations of a run by one protocol as in the tables, except for `fields`.

        A protocol with a learning-rate search has one evaluation per rate in `rates`, by default the profile's, unless
        `fields` sets `lr`.
        """
        if protocol not in ("linear", "finetune"):
            return (self.evaluation(run, protocol, **fields),)
        profile = self.profile
        fraction = fields.get("label_fraction", profile.label_fraction)
        known: dict[str, Mapping[float, float]] = {"label_sets": profile.label_sets}
        searched = profile.linear_rates(run.method.name)
        if protocol == "finetune":
            known |= {"head_lr": profile.head_lr, "epochs": profile.finetune_epochs}
            searched = profile.finetune_lr
        chosen = {name: values[fraction] for name, values in known.items() if fraction in values}
        return tuple(
            self.evaluation(run, protocol, **{"label_fraction": fraction, "lr": rate, **chosen, **fields})
            for rate in ([fields["lr"]] if "lr" in fields else rates or searched)
        )

    def labelled(
        self, run: RunSpec, protocol: str, fraction: float, top: int = 1, rates: Sequence[float] = ()
    ) -> Wanted:
        """Return top-1 or top-5 accuracy of linear evaluation or finetuning on a share of the labels, at the rate that
        is best on held-out images; see `evaluations`.
        """
        name = prefix(protocol, fraction)
        evaluations = self.evaluations(run, protocol, {"label_fraction": fraction}, rates)
        return Wanted(run, evaluations, f"{name}top{top}", f"{name}held_out_top1")

    def classified(self, run: RunSpec, top: int = 1) -> Wanted:
        """Return the test accuracy of a classifier."""
        name = "test/" + ("teacher_" if self._network(run) == "teacher" else "") + f"top{top}"
        return Wanted(run, (), name + ("_best" if self.selection == "best" else ""))

    def standard(self, run: RunSpec, rates: Sequence[float] = ()) -> Wanted:
        """Return the result of Tables 1 and 8: a classifier's test accuracy, else linear evaluation."""
        if run.entry.classifier:
            return self.classified(run)
        return self.labelled(run, "linear", self.profile.label_fraction, rates=rates)

    def standard_note(self, methods: Sequence[str], rates: Sequence[float] = ()) -> str:
        """Return a note on how :meth:`standard` measures each method."""
        return self.profile.results_note(methods, self.overrides.get("held_out"), rates)

    def cell(
        self, table: str, row: str, column: str, result: Callable[[int], Wanted] | None, published: str | None = None
    ) -> Cell:
        """Return a cell of the table of this name.

        `result` returns the result of a seed; it is `None` for rows that are only quoted. `published` is the paper's
        value, by default the one with these titles.
        """
        wanted = tuple(result(seed) for seed in self.seeds) if result else ()
        return Cell(table, row, column, paper.value(table, row, column) if published is None else published, wanted)

    def table(
        self,
        name: str,
        title: str,
        cells: Iterable[Cell],
        *notes: str,
        side: str = "network",
        contrasts: Pairs = (),
        labels: Pairs = (),
    ) -> Table:
        """Return a table with the notes of the profile, these, and those of `notes`."""
        cells = tuple(cells)
        runs = [wanted.run for cell in cells for wanted in cell.wanted]
        notes = (*self.profile.notes(runs), *notes, *self.notes())
        return Table(name, title, cells, notes, tuple(contrasts), side, labels=tuple(labels))

    def notes(self) -> tuple[str, ...]:
        """Return notes on the overrides, the evaluated network and the seeds."""
        seeds = ", ".join(map(str, self.seeds))
        other = [f"{name}={value}" for name, value in self.overrides.items()]
        return (
            *([f"Overrides of the profile, in every run: {', '.join(other)}."] if other else []),
            f"Network: the {self.network} after the {self.selection} epoch"
            + (" (the student where a run has no separate teacher)" if self.network == "teacher" else "")
            + (self._monitored() if self.selection == "best" else "")
            + f"; selection: {self.selection}.",
            f"Seed {seeds}." if len(self.seeds) == 1 else f"Mean and sample standard deviation over seeds {seeds}.",
        )

    def _monitored(self) -> str:
        """Return how the best epoch is chosen."""
        values = {**RUN_DEFAULTS, **self.profile.common, **self.overrides}
        images = f"{values['held_out']:,} held-out training images"
        if not values["held_out"]:
            images = "test images, on which the official code selects too"
        every = "every epoch" if values["monitor_every"] == 1 else f"every {values['monitor_every']} epochs"
        return (
            f", of those monitored ({every}; by kNN, or by a run's own classifier) on "
            f"{100 * MONITOR_QUERIES:g} % of the {images}"
        )

    def _network(self, run: RunSpec) -> str:
        return self.network if run.has_teacher_network else "student"
