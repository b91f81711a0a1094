"""What a launch has left to do."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from eman.evaluation.protocols.spec import EvalSpec
from eman.evaluation.results.values import Results
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep
from eman.trainers.spec.run import RunSpec

#: Files to look for at once: object storage takes tens of milliseconds for each.
_PARALLEL = 8


@dataclass(frozen=True)
class Todo:
    """Runs that are ready, and the number of all runs that are left.

    Attributes:
        trainings: Trainings whose initial network, if any, exists.
        evaluations: Evaluations whose training is done and whose networks exist.
        previous_owners: Owners, by key, of finished trainings that are trained again because their files are gone.
        open: Number of trainings and evaluations without a result, ready or not. Those of trainings that have collapsed
            or were stopped by this search do not count: they never get one.
    """

    trainings: tuple[RunSpec, ...]
    evaluations: tuple[EvalSpec, ...]
    previous_owners: Mapping[str, str]
    open: int


def find_todo(sweep: Sweep, results: Results, failures: Mapping[str, int], retries: int, workspace: Workspace) -> Todo:
    """Return the runs of a sweep that are missing in the store and not running.

    ``failures`` counts those in this launch, by key; runs that failed in an earlier launch are tried again, unless they
    would fail again.
    """
    ended = {
        key
        for key, spec in sweep.trainings.items()
        if (record := results.trainings.get(key)) is not None
        and (_has_collapsed(spec, record) or (record.status == "stopped" and sweep.request.scheduler != "none"))
    }

    def is_open(key: str, record: Record | None, runs: Iterable[str]) -> bool:
        if not ended.isdisjoint(runs):
            return False
        if record is None or record.status in ("missing", "stopped"):
            return True
        repeats = record.final and key in sweep.evaluations
        return record.status == "failed" and not repeats and failures.get(key, 0) <= retries

    lineages = {key: [run.key for run in spec.lineage] for key, spec in sweep.trainings.items()}
    trainings = [spec for k, spec in sweep.trainings.items() if is_open(k, results.trainings.get(k), lineages[k])]
    evaluations = [
        spec for k, spec in sweep.evaluations.items() if is_open(k, results.evaluations.get(k), lineages[spec.run])
    ]
    ready = [spec for spec in evaluations if results.done(spec.run)]
    starts = [init.key for spec in trainings if (init := spec.network.init) and results.done(init.key)]
    needed = {(spec.run, spec.selection) for spec in ready} | {(key, "last") for key in starts}
    gone = {key: results.trainings[key].owner for key in _without_networks(needed, workspace)}
    wanted = [*trainings, *(sweep.trainings[key] for key in gone)]
    return Todo(
        tuple(s for s in wanted if not (init := s.network.init) or (results.done(init.key) and init.key not in gone)),
        tuple(spec for spec in ready if spec.run not in gone),
        gone,
        len(trainings) + len(evaluations),
    )


def _has_collapsed(spec: RunSpec, record: Record) -> bool:
    """Return whether a training has collapsed by the rule of its specification; by another rule, it may go on."""
    return record.final and record.tags.get("eman.collapse_rule") == spec.execution.collapse_rule


def _without_networks(needed: Collection[tuple[str, str]], workspace: Workspace) -> list[str]:
    """Return the runs that lack a network, of pairs of run and selection, sorted."""
    pairs = sorted(needed)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        found = pool.map(lambda pair: (workspace.run_folder(pair[0]) / f"{pair[1]}.pt").exists(), pairs)
        return sorted({run for (run, _), exists in zip(pairs, found, strict=True) if not exists})
