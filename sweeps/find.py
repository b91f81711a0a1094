"""Find runs by key or key prefix."""

from difflib import get_close_matches

from eman.platform.errors import UserError
from eman.platform.store.records import TRAINING, Record
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
