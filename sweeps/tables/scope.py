"""What is asked of a table: at which scale, over which seeds, of which networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eman.evaluation.protocols import linear
from eman.evaluation.protocols.registry import make_eval
from eman.evaluation.results.tables import Wanted
from eman.platform.errors import unknown
from eman.sweeps.profiles.profiles import Profile
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import TEACHER_NORMS
from eman.trainers.spec.run import NETWORKS, SELECTIONS, EvalSpec, RunSpec


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a table's file turns into cells.

    Attributes:
        profile: The scale.
        seeds: Seeds of every cell.
        overrides: RunSpec fields for every run.
        network: Which network is evaluated: ``student`` (the paper's) or ``teacher``; a run without a teacher network
            of its own is evaluated by its student.
        selection: Which epoch: ``last``, or the ``best`` on the held-out images.

    Raises:
        UserError: A name is unknown.
    """

    profile: Profile
    seeds: Sequence[int] = (0,)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    network: str = "student"
    selection: str = "last"

    def __post_init__(self) -> None:
        for name, allowed in (("network", NETWORKS), ("selection", SELECTIONS)):
            if getattr(self, name) not in allowed:
                raise unknown(f"--{name}", getattr(self, name), allowed)

    def run(self, method: str, scheme: str, seed: int, **fields: Any) -> RunSpec:
        """A run at this scale; what the user overrides goes before ``fields``."""
        return self.profile.run(method, scheme, seed, {**fields, **self.overrides})

    def evaluation(self, run: RunSpec, protocol: str, **fields: Any) -> EvalSpec:
        """An evaluation of a run: the paper's values, the profile's, then ``fields``."""
        chosen = {**self.profile.protocols.get(protocol, {}), **fields}
        return make_eval(protocol, run.key, network=self._network(run), selection=self.selection, **chosen)

    def result(self, run: RunSpec, protocol: str, metric: str, **fields: Any) -> Wanted:
        """A metric of one evaluation of a run."""
        return Wanted(run, (self.evaluation(run, protocol, **fields),), metric)

    def labelled(
        self, run: RunSpec, protocol: str, fraction: float, top: int = 1, rates: Sequence[float] | None = None
    ) -> Wanted:
        """Linear evaluation or finetuning on a share of the labels, at the rate that is best on held-out images."""
        profile = self.profile
        fields: dict[str, Any] = {"label_fraction": fraction, "label_sets": profile.label_sets[fraction]}
        if protocol == "finetune":
            fields |= {"head_lr": profile.head_lr[fraction], "epochs": profile.finetune_epochs[fraction]}
            rates = rates or profile.finetune_lr
        evaluations = tuple(
            self.evaluation(run, protocol, lr=rate, **fields) for rate in rates or profile.linear_lr[run.method]
        )
        name = linear.prefix(evaluations[0])
        return Wanted(run, evaluations, f"{name}top{top}", f"{name}held_out_top1")

    def classified(self, run: RunSpec, top: int = 1) -> Wanted:
        """Test accuracy of a run that classifies by itself."""
        name = "test/" + ("teacher_" if self._network(run) == "teacher" else "") + f"top{top}"
        return Wanted(run, (), name + ("_best" if self.selection == "best" else ""))

    def standard(self, run: RunSpec, rates: Sequence[float] | None = None) -> Wanted:
        """The result that stands for a run in Tables 1 and 8: its own accuracy, or that of the linear evaluation."""
        if method_named(run.method).classifier:
            return self.classified(run)
        return self.labelled(run, "linear", self.profile.label_fraction, rates=rates)

    def _network(self, run: RunSpec) -> str:
        own = run.teacher_norm is not None and not TEACHER_NORMS[run.teacher_norm].joint
        return self.network if own else "student"

    def results_notes(self, rates: Sequence[float] = ()) -> tuple[str, ...]:
        """All that stands under a table of standard results; ``rates`` are those of the linear evaluation, if they are
        not the profile's.
        """
        return (*self.profile.notes(self.overrides.get("held_out"), rates), *self.notes())

    def notes(self) -> tuple[str, ...]:
        """Which networks and seeds made the numbers, and what is not as the profile says."""
        seeds = ", ".join(map(str, self.seeds))
        other = [f"{name}={value}" for name, value in self.overrides.items() if name != "seed"]
        return (
            *([f"Other than the profile says, in every run: {', '.join(other)}."] if other else []),
            f"Network: the {self.network} after the {self.selection} epoch"
            + (" (the student where a run has no other network)" if self.network == "teacher" else "")
            + (", the best on the held-out images" if self.selection == "best" else "")
            + ".",
            f"Seed {seeds}." if len(self.seeds) == 1 else f"Mean and sample standard deviation over seeds {seeds}.",
        )
