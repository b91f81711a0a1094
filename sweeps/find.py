"""Finding runs by what a person types: a key, or its beginning."""

from collections.abc import Mapping
from difflib import get_close_matches

from eman.platform.errors import UserError
from eman.platform.store.records import Record


def find_run(prefix: str, records: Mapping[str, Record]) -> Record:
    """Return the training whose key begins with `prefix`.

    Raises:
        UserError: There is none, or more than one.
    """
    matching = [record for key, record in records.items() if key.startswith(prefix)]
    if len(matching) == 1:
        return matching[0]
    keys = [record.key for record in matching] or get_close_matches(prefix, records, n=3, cutoff=0.0)
    problem = "several runs begin so" if matching else "there is no such run"
    nearest = ", ".join(f"{key} ({records[key].name})" for key in keys[:3])
    raise UserError(
        f"run {prefix!r}: {problem}{f'; nearest: {nearest}' if nearest else ''}. `eman runs list` lists them."
    )


def find_finished_run(prefix: str, records: Mapping[str, Record]) -> Record:
    """Return the finished training whose key begins with `prefix`; see `find_run`."""
    record = find_run(prefix, records)
    if record.status != "done":
        reason = f" ({record.reason})" if record.reason else ""
        raise UserError(
            f"run {record.key} ({record.name}) is {record.status}{reason}; only finished runs are evaluated."
        )
    return record
