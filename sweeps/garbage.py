"""Find what storage and store hold in vain: files without a run, and runs without files."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from eman.platform.storage import Place, Stat
from eman.platform.store.records import TRAINING, Record
from eman.platform.store.store import Store

#: Files of a finished run that are of use.
_KEPT = re.compile(r"(last|best|features-.*)\.pt|.*\.?lock")


@dataclass(frozen=True)
class Garbage:
    """What may be removed, and what only needs to be known.

    Attributes:
        folders: Folders of runs that are not in the store, with their sizes in bytes.
        files: Files that a finished run no longer needs, such as checkpoints to resume from, with their sizes.
        records: Interrupted runs without files.
        bare: Finished runs without networks. Their results stay.
    """

    folders: tuple[tuple[Place, int], ...]
    files: tuple[tuple[Place, int], ...]
    records: tuple[Record, ...]
    bare: tuple[Record, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.folders or self.files or self.records)

    def lines(self) -> Iterator[str]:
        """Yield a description."""
        for record in self.bare:
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
        """Remove it."""
        for place, _ in self.folders:
            place.remove_folder()
        for place, _ in self.files:
            place.remove()
        for record in self.records:
            store.client.delete_run(record.run_id)


def find_garbage(store: Store, hours: float) -> Garbage:
    """Return what is in vain and has not changed for some hours. What a running run writes is never in it."""
    before = time.time() - 3600 * hours
    runs = store.workspace.runs
    found = defaultdict[str, list[Stat]](list)  # listed before the store is read: what comes later is not touched
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
    bare = [r for key, r in records.items() if r.status == "done" and "last.pt" not in names.get(key, ())]
    return Garbage(tuple(folders), tuple(files), tuple(lost), tuple(bare))


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:10,.1f} MiB"
