"""Find runs by key or key prefix, and remove them from the store and the work folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from eman.platform.errors import UserError
from eman.platform.storage import Place
from eman.platform.store.records import EVALUATION, TRAINING, Record
from eman.platform.store.store import Store


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
        records = store.by_key(TRAINING)
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
    return record


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
    evaluations = [record for record in store.records(EVALUATION) if record.tags.get("eman.run") in keys]
    folders = [store.workspace.run_folder(key) for key in sorted(keys)]
    return Removal((*trainings, *evaluations), tuple(folder for folder in folders if folder.exists()))


def prunable(store: Store) -> Removal:
    """Return the removal of failed and interrupted runs, and of folders whose run is not in the store."""
    trainings = store.records(TRAINING)
    kept = {record.key for record in trainings if record.status in ("done", "running")}
    unwanted = [record for record in trainings if record.status in ("failed", "missing")]
    evaluations = [record for record in store.records(EVALUATION) if record.status in ("failed", "missing")]
    runs = store.workspace.runs
    return Removal((*unwanted, *evaluations), tuple(runs / name for name in runs.folders() if name not in kept))
