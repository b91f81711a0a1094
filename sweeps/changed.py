"""Find results of code that has changed since."""

from collections import Counter
from collections.abc import Iterable, Mapping

from eman.platform import modules
from eman.platform.store.records import Record
from eman.trainers.spec.run import RunSpec


def changed_modules(runs: Iterable[RunSpec], records: Mapping[str, Record]) -> list[str]:
    """Return a line for each module of one's own whose source has changed since finished runs used it.

    A module whose ``__version__`` has changed is left out: its author has decided that results still hold.

    Args:
        runs: The runs whose results are used.
        records: What the store has of them, by key.
    """
    changes = Counter[tuple[str, str, str]]()
    for run in runs:
        record = records.get(run.key)
        if record is None or record.status != "done":
            continue
        for tag, now in modules.tags(entry.module for entry in run.used).items():
            then = record.tags.get(tag, now)
            if then != now and then.rpartition(" ")[0] == now.rpartition(" ")[0]:
                changes[tag.removeprefix(modules.TAG), then.rpartition(" ")[2], now.rpartition(" ")[2]] += 1
    return [
        f"module {name} has changed since {count} of the finished runs used it ({then}, now {now}); if results change, "
        f"raise version= of what it registers, or delete the runs with `eman runs rm`."
        for (name, then, now), count in changes.items()
    ]
