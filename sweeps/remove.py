"""Remove runs from the store and the work folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eman.platform.errors import UserError
from eman.platform.store.records import EVALUATION, TRAINING, Record
from eman.platform.store.store import Store


@dataclass(frozen=True)
class Removal:
    """Trainings with their evaluations, and folders of checkpoints and features, to remove."""

    records: tuple[Record, ...]
    folders: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Total size of the folders in bytes."""
        return sum(file.stat().st_size for folder in self.folders for file in folder.rglob("*") if file.is_file())

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
            shutil.rmtree(folder, ignore_errors=True)


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
    return Removal((*trainings, *evaluations), tuple(folder for folder in folders if folder.is_dir()))


def prunable(store: Store) -> Removal:
    """Return the removal of failed and interrupted runs, and of folders whose run is not in the store."""
    trainings = store.records(TRAINING)
    kept = {record.key for record in trainings if record.status in ("done", "running")}
    unwanted = [record for record in trainings if record.status in ("failed", "missing")]
    evaluations = [record for record in store.records(EVALUATION) if record.status in ("failed", "missing")]
    root = store.workspace.run_folder("x").parent
    folders = [folder for folder in sorted(root.glob("*")) if folder.is_dir() and folder.name not in kept]
    return Removal((*unwanted, *evaluations), tuple(folders))
