"""What several commands need: tables by their names, and printing them."""

from pathlib import Path
from typing import Any

from eman.context import workspace
from eman.options import Format, Network, Selection
from eman.platform.errors import UserError
from eman.platform.output import output_file


def planned_tables(
    names: list[str],
    profile: str,
    seeds: int,
    overrides: list[str] | None,
    network: Network = Network.student,
    selection: Selection = Selection.last,
) -> Any:
    from eman.sweeps.plan import plan
    from eman.sweeps.request import SweepRequest
    from eman.trainers.spec.fields import parse_fields

    fields = parse_fields(overrides or [])
    return plan(
        SweepRequest(
            tables=names,
            profile=profile,
            seeds=(fields.pop("seed"),) if "seed" in fields else seeds,
            overrides=fields,
            network=network.value,
            selection=selection.value,
        )
    )


def print_tables(planned: Any, store: Any, form: Format, out: Path | None, other: str = "paper") -> None:
    from eman.evaluation.results import tables
    from eman.evaluation.results.tables import Results
    from eman.platform.store.store import existing_store

    results, shown = Results.read(store), planned.tables
    if other != "paper":
        theirs = Results.read(existing_store(other, workspace()))
        shown = [tables.against(table, theirs, other) for table in shown]
    found = [(table, tables.values(table, results)) for table in shown]
    if form is Format.parquet:
        if out is None:
            raise UserError("--format parquet needs --out FILE.")
        tables.write_parquet(found, results, out)
        return
    text = tables.render(found, form.value)
    if out is None:
        print(text)
    else:
        with output_file(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
