"""Write the generated parts of pages: `python docs/generate.py`. `make docs` does so first, and a test compares.

A part stands between the comments `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.
"""

import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from eman.evaluation.protocols.registry import PROTOCOLS
from eman.evaluation.protocols.spec import EvalSpec, settable
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.trainers.methods.registry import METHODS
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.fields import fields_of

#: The paper's values and the official code's, by section and field.
Data = Mapping[str, Mapping[str, Mapping[str, Any]]]

DOCS = Path(__file__).resolve().parent

#: Fields of a profile that are not hyper-parameters, or are in the tables of methods and protocols.
NOT_IN_FIDELITY = ("name", "about", "common", "methods", "protocols", "workers", "recipe")

#: Schemes of docs/library-teachers.md.
LIBRARY_SCHEMES = ("bn", "syncbn", "shufflebn", "eman", "student-pn-0.9", "student-pn-0.999")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a column whose heading ends in a space is right-aligned."""
    lines = [head, ["---:" if name.endswith(" ") else "---" for name in head], *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines) + "\n"


def library_results() -> str:
    """Return the rows of Tables 1 and 8 that are libraries' rules, from the committed results."""
    both = pd.read_parquet(DOCS / "results" / "mini.parquet")  # rows in both tables are the same runs
    results = both.drop_duplicates(["row", "column"]).set_index(["row", "column"])
    methods = list(dict.fromkeys(results.index.get_level_values("column")))
    rows = []
    for name in LIBRARY_SCHEMES:
        rows.append([f"`{name}`"])
        for method in methods:
            cell = results.loc[SCHEMES[name].title, method]
            mean = f"{cell.value:.1f} ±{cell.spread:.1f}" if cell.status == "done" else cell.status
            rows[-1] += [mean, cell.paper]
    head = ["row", *(title for method in methods for title in (f"{method} ", "paper "))]
    first = results.iloc[0]
    arguments = f"--profile {first.profile} --seeds {len(first.seeds.split(','))}"
    return (
        f"{markdown(head, rows)}\n"
        f"`eman sweep table1 table8 {arguments}`, revision `{first.git}`: means and standard deviations over seeds.\n"
        f"`eman table 1 8 {arguments}` prints them. [Results](results.md) has the whole tables and says what they\n"
        "measure.\n"
    )


def shown(value: Any) -> str:
    """Return a value as the tables show it."""
    if value is None or (isinstance(value, Mapping) and not value):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e5 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if is_dataclass(value):
        return shown({f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name)})
    if isinstance(value, Mapping):
        return ", ".join(_pair(name, part) for name, part in value.items())
    return str(value)


def _pair(name: Any, part: Any) -> str:
    text = shown(part)
    if isinstance(part, int | float | str):
        return f"{shown(name)}: {text}"
    return shown(name) if text == "none" else f"{shown(name)} ({text})"


def ours() -> dict[str, dict[str, str]]:
    """Return every field of every method and protocol, and of the profile, with its value, by section."""
    found: dict[str, dict[str, str]] = {}
    for method in METHODS:
        run = fields_of(IMAGENET.run(method, "eman"))
        found[method] = {field.name: shown(field.default) for field in run if field.section != "execution"}
    common = [name for name in settable("knn") if name in EvalSpec.model_fields]
    for protocol, entry in PROTOCOLS.items():
        given = IMAGENET.protocols.get(protocol, {})
        defaults = {name: field.default for name, field in entry.spec.model_fields.items()}
        found[protocol] = {name: shown(given.get(name, default)) for name, default in defaults.items()}
    found["evaluation"] = {name: shown(EvalSpec.model_fields[name].default) for name in common}
    names = [field.name for field in fields(IMAGENET) if field.name not in NOT_IN_FIDELITY]
    found["profile"] = {name: shown(getattr(IMAGENET, name)) for name in names}
    return found


def shared(data: Data, found: dict[str, dict[str, str]]) -> None:
    """Move the fields that ``data`` describes for all methods from the methods to the section ``run``."""
    found["run"] = {}
    for name in data.get("run", {}):
        values = {m: found[m].pop(name) for m in METHODS if name in found[m] and name not in data.get(m, {})}
        for value, count in Counter(values.values()).most_common(1):
            others = [f"{method}: {other}" for method, other in values.items() if other != value]
            found["run"][name] = ", ".join([value, *others]) if count else ""


def fidelity(data: Data | None = None) -> str:
    """Return the tables of docs/fidelity.md.

    Args:
        data: The paper's values and the official code's, by section and field; ``None`` for docs/fidelity.toml.

    Raises:
        ValueError: A field is missing in the data, an entry is not a field, or a value differs without a reason.
    """
    data = tomllib.loads((DOCS / "fidelity.toml").read_text(encoding="utf-8")) if data is None else data
    found = ours()
    shared(data, found)
    titles = {
        **{"run": "All methods", "evaluation": "All protocols", "profile": "Profile `imagenet`"},
        **{name: entry.title for name, entry in METHODS.items()},
        **{name: f"Protocol {entry.title}" for name, entry in PROTOCOLS.items()},
    }
    for section in sorted({*found, *data}):
        lacking = found.get(section, {}).keys() ^ data.get(section, {}).keys()
        for name in sorted(lacking):
            wrong = "is not a field" if name in data.get(section, {}) else "has no entry"
            raise ValueError(f"docs/fidelity.toml: {section}.{name} {wrong}")
    order = ["run", *METHODS, "evaluation", *PROTOCOLS, "profile"]
    return "\n".join(f"## {titles[name]}\n\n{_fidelity_table(name, data[name], found[name])}" for name in order)


def _fidelity_table(section: str, data: Mapping[str, Mapping[str, Any]], found: Mapping[str, str]) -> str:
    rows = []
    for name, entry in data.items():
        theirs = [shown(entry[source]) for source in ("paper", "official") if source in entry]
        if any(value != found[name] for value in theirs) and "why" not in entry:
            raise ValueError(f"docs/fidelity.toml: {section}.{name} is {found[name]} here, and there is no reason why")
        cells = [_with_place(entry, source) for source in ("paper", "official")]
        rows.append([f"`{name}`", *cells, found[name], entry.get("why", "")])
    return markdown(["field", "paper", "official code", "here", "why"], rows)


def _with_place(entry: Mapping[str, Any], source: str) -> str:
    if source not in entry:
        return ""
    place = entry[f"{source}_at"]
    return f"{shown(entry[source])} ({'§' if place[0].isdigit() else ''}{place})"


#: Generated parts by page and name.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "library-teachers.md": {"library-results": library_results},
    "fidelity.md": {"fidelity": fidelity},
}


def page(name: str) -> str:
    """Return a page with its parts as they should be.

    Raises:
        ValueError: The page lacks the comments of a part.
    """
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, made in PARTS[name].items():
        begin, end = f"<!-- begin {part} -->\n", f"<!-- end {part} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{name} has no part {part}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{made()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(name), encoding="utf-8")
