"""What a launch has left to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results.values import Results
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep
from eman.trainers.spec.run import RunSpec


@dataclass(frozen=True)
class Todo:
    """Runs that are ready, and the number of all runs that are left.

    Attributes:
        trainings: Trainings whose initial network, if any, exists.
        evaluations: Evaluations whose training is done and whose networks exist.
        gone: Owners, by key, of finished trainings whose files are gone and that are trained again.
        open: Number of trainings and evaluations without a result, ready or not. Those of collapsed trainings, which
            never get one, do not count.
    """

    trainings: tuple[RunSpec, ...]
    evaluations: tuple[EvalSpec, ...]
    gone: Mapping[str, str]
    open: int


def find_todo(sweep: Sweep, results: Results, failures: Mapping[str, int], retries: int, workspace: Workspace) -> Todo:
    """Return the runs of a sweep that are missing in the store and not running.

    ``failures`` counts those in this launch, by key; runs that failed in an earlier launch are tried again, unless they
    would fail again.
    """
    collapsed = {key for key, spec in sweep.trainings.items() if _has_collapsed(spec, results.trainings.get(key))}

    def is_open(key: str, record: Record | None, runs: Iterable[str]) -> bool:
        if not collapsed.isdisjoint(runs):
            return False
        if record is None or record.status == "missing":
            return True
        repeats = record.final and key in sweep.evaluations
        return record.status == "failed" and not repeats and failures.get(key, 0) <= retries

    def has_networks(run: str, selection: str) -> bool:
        return (workspace.run_folder(run) / f"{selection}.pt").exists()

    lineages = {key: [run.key for run in spec.lineage] for key, spec in sweep.trainings.items()}
    trainings = [spec for k, spec in sweep.trainings.items() if is_open(k, results.trainings.get(k), lineages[k])]
    evaluations = [
        spec for k, spec in sweep.evaluations.items() if is_open(k, results.evaluations.get(k), lineages[spec.run])
    ]
    ready = [spec for spec in evaluations if results.done(spec.run)]
    starts = [init.key for spec in trainings if (init := spec.network.init) and results.done(init.key)]
    missing = {spec.run for spec in ready if not has_networks(spec.run, spec.selection)}
    missing |= {key for key in starts if not has_networks(key, "last")}
    gone = {key: results.trainings[key].owner for key in sorted(missing)}
    wanted = [*trainings, *(sweep.trainings[key] for key in gone)]
    return Todo(
        tuple(s for s in wanted if not (init := s.network.init) or (results.done(init.key) and init.key not in gone)),
        tuple(spec for spec in ready if spec.run not in gone),
        gone,
        len(trainings) + len(evaluations),
    )


def _has_collapsed(spec: RunSpec, record: Record | None) -> bool:
    """Return whether a training has collapsed by the rule of its specification; by another rule, it may go on."""
    return record is not None and record.final and record.tags.get("eman.collapse_rule") == spec.execution.collapse_rule
