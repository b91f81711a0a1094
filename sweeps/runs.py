"""Find runs by key or key prefix, and remove them from the store and the work folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from eman.platform.errors import UserError
from eman.platform.modules import check_loaded
from eman.platform.storage import Place
from eman.platform.store.records import EVALUATION, TRAINING, Record
from eman.platform.store.store import Store

#: Number of the newest trainings to search for similar keys.
_NEARBY = 500


def find_run(prefix: str, store: Store) -> Record:
    """Return the training whose key begins with `prefix`.

    Raises:
        UserError: No run matches, or several do.
    """
    matching = list(store.by_prefix(TRAINING, prefix).values())
    if len(matching) == 1:
        return matching[0]
    problem, nearby = "several runs match", matching[:3]
    if not matching:
        records = {record.key: record for record in store.records(TRAINING, limit=_NEARBY)}
        problem = "there is no such run"
        nearby = [records[key] for key in get_close_matches(prefix, records, n=3, cutoff=0.0)]
    nearest = f"; nearest: {', '.join(f'{record.key} ({record.name})' for record in nearby)}" if nearby else ""
    raise UserError(f"run {prefix!r}: {problem}{nearest}. `eman runs list` lists them.")


def find_finished_run(prefix: str, store: Store) -> Record:
    """Return the finished training whose key begins with `prefix`; see `find_run`."""
    record = find_run(prefix, store)
    if record.status != "done":
        reason = f" ({record.reason})" if record.reason else ""
        raise UserError(f"run {record.key} ({record.name}) is {record.status}{reason}; only finished runs can be used.")
    check_loaded(record.tags, f"run {record.key} ({record.name})")
    return record


def evaluations_of(training: Record, store: Store) -> list[Record]:
    return store.records(EVALUATION, parent=training.run_id)


@dataclass(frozen=True)
class Removal:
    """Trainings with their evaluations, and folders of checkpoints and features, to remove."""

    records: tuple[Record, ...]
    folders: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Total size of the folders in bytes."""
        return sum(size for folder in self.folders for _, size in folder.files())

    def lines(self) -> list[str]:
        known = {record.key for record in self.records}
        runs = [f"{record.key}  {record.status:8}  {record.name}" for record in self.records]
        stray = [str(folder) for folder in self.folders if folder.name not in known]
        return [*runs, *stray, f"{len(self.records)} runs, {self.size / 2**20:,.1f} MiB of files"]

    def carry_out(self, store: Store) -> None:
        """Delete the runs in the store, then the folders."""
        for record in self.records:
            store.client.delete_run(record.run_id)
        for folder in self.folders:
            folder.remove_folder()


def removal_of(trainings: Sequence[Record], store: Store) -> Removal:
    """Return the removal of trainings with their evaluations and folders.

    Raises:
        UserError: A training is running.
    """
    for record in trainings:
        if record.status == "running":
            raise UserError(f"run {record.key} ({record.name}) is running; stop it first.")
    keys = {record.key for record in trainings}
    evaluations = [r for training in trainings for r in evaluations_of(training, store)]
    folders = [store.workspace.run_folder(key) for key in sorted(keys)]
    return Removal((*trainings, *evaluations), tuple(folder for folder in folders if folder.exists()))


def prunable(store: Store) -> Removal:
    """Return the removal of failed and interrupted runs, and of folders whose run is not in the store."""
    unwanted = [record for record in _unfinished(store) if record.kind in (TRAINING, EVALUATION)]
    runs = store.workspace.runs
    found = runs.folders()
    kept = {
        key for key, record in store.by_key(TRAINING, found).items() if record.status in ("done", "running", "stopped")
    }
    return Removal(tuple(unwanted), tuple(runs / name for name in found if name not in kept))


def _unfinished(store: Store) -> list[Record]:
    """Return the failed and interrupted runs."""
    open_or_ended = [
        record for status in ("FAILED", "KILLED", "RUNNING", "SCHEDULED") for record in store.records(status=status)
    ]
    return [record for record in open_or_ended if record.status in ("failed", "missing")]
