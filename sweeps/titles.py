"""Readable names for the trainings of a sweep."""

from collections import defaultdict
from collections.abc import Mapping

from eman.trainers.methods.registry import run_title
from eman.trainers.spec.run import RunSpec

#: Fields that tell a person why two runs with one title differ; other fields follow from these.
_TELLING = ("backbone", "epochs", "label_fraction", "lr")


def titles_of(trainings: Mapping[str, RunSpec]) -> dict[str, str]:
    """Return a name for each training by key. Runs that would share a name have what tells them apart added to it."""
    titles = {key: run_title(spec) for key, spec in trainings.items()}
    by_title: dict[str, list[str]] = defaultdict(list)
    for key, title in titles.items():
        by_title[title].append(key)
    for keys in by_title.values():
        if len(keys) > 1:
            fields = {key: {**trainings[key].fields(), "init": ""} for key in keys}
            names = _differing(list(fields.values()))
            for key in keys:
                titles[key] += "".join(f" · {name} {fields[key].get(name)}" for name in names)
    return titles


def _differing(fields: list[dict[str, object]]) -> list[str]:
    names = dict.fromkeys(name for one in fields for name in one)
    differing = [name for name in names if len({str(one.get(name)) for one in fields}) > 1]
    return [name for name in differing if name in _TELLING] or differing[:1]
