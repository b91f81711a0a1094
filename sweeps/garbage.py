"""Find unused files in the work folder, and interrupted runs in the store that have no files."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from eman.platform.storage import Place, Stat
from eman.platform.store.records import TRAINING, Record
from eman.platform.store.store import Store

#: Files of a finished run that are still used.
_KEPT = re.compile(r"(last|best|features-.*)\.pt|.*\.?lock")


@dataclass(frozen=True)
class Garbage:
    """What may be removed, and finished runs without networks, which are only listed.

    Attributes:
        folders: Folders of runs that are not in the store, with their sizes in bytes.
        files: Files that a finished run no longer needs, such as checkpoints to resume from, with their sizes.
        records: Interrupted runs without files.
        without_networks: Finished runs whose networks are gone. Their results stay.
    """

    folders: tuple[tuple[Place, int], ...]
    files: tuple[tuple[Place, int], ...]
    records: tuple[Record, ...]
    without_networks: tuple[Record, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.folders or self.files or self.records)

    def lines(self) -> Iterator[str]:
        """Yield a line for each, with its size, and the total."""
        for record in self.without_networks:
            yield f"kept: {record.key}  {record.name} has results and no networks; a sweep that needs them trains again"
        for title, found in (("no run in the store", self.folders), ("not needed any more", self.files)):
            for place, size in found:
                yield f"{_mebibytes(size)}  {place}  ({title})"
        for record in self.records:
            yield f"{_mebibytes(0)}  run {record.key}  {record.name}  (interrupted, no files)"
        if not self.empty:
            total = sum(size for _, size in (*self.folders, *self.files))
            yield f"{_mebibytes(total)}  in all, and {len(self.records)} runs"

    def remove(self, store: Store) -> None:
        """Remove the folders and files, and delete the runs in the store."""
        for place, _ in self.folders:
            place.remove_folder()
        for place, _ in self.files:
            place.remove()
        for record in self.records:
            store.client.delete_run(record.run_id)


def find_garbage(store: Store, hours: float) -> Garbage:
    """Return what has not been used or changed for some hours. Files of a running run are never included."""
    before = time.time() - 3600 * hours
    runs = store.workspace.runs
    found = defaultdict[str, list[Stat]](list)  # list before reading the store: newer files are left alone
    for stat in runs.stats():
        key, _, name = stat.name.partition("/")
        if name:
            found[key].append(stat._replace(name=name))
    records = store.by_key(TRAINING)
    folders = [
        (runs / key, sum(stat.size for stat in stats))
        for key, stats in sorted(found.items())
        if key not in records and all(stat.changed <= before for stat in stats)
    ]
    files = [
        (runs / key / stat.name, stat.size)
        for key, stats in sorted(found.items())
        if key in records and records[key].status == "done"
        for stat in stats
        if not _KEPT.fullmatch(stat.name) and stat.changed <= before
    ]
    names = {key: {stat.name for stat in stats} for key, stats in found.items()}
    lost = [
        record
        for key, record in records.items()
        if record.status == "missing"
        and max(record.heartbeat, record.start) <= before
        and not any(name.endswith(".pt") for name in names.get(key, ()))
    ]
    without = [r for key, r in records.items() if r.status == "done" and "last.pt" not in names.get(key, ())]
    return Garbage(tuple(folders), tuple(files), tuple(lost), tuple(without))


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:10,.1f} MiB"
