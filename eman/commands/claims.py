"""The command `claims`: verdicts on what the paper says."""

from pathlib import Path
from typing import Annotated

import typer

from eman.commands.printing import check_format, write_text
from eman.context import open_store
from eman.groups import expand_groups
from eman.options import ClaimsArgument, Evaluated, Format, Grid, JsonOption, Scale
from eman.platform.errors import UserError
from eman.platform.output import output_file
from eman.requests import new_request

app = typer.Typer()


@app.command(rich_help_panel="Look")
@expand_groups
def claims(
    what: ClaimsArgument = None,
    *,
    scale: Scale,
    evaluated: Evaluated,
    list_: Annotated[bool, typer.Option("--list", help="List the claims with their names.")] = False,
    form: Annotated[Format | None, typer.Option("--format", help="Output format. Default: text.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test the paper's claims with the runs in the store, and print a verdict on each.

    - `eman claims --profile mini`
    - `eman claims 1 8 --profile mini --format markdown`
    - `eman claims moco-eman-bn byol-eman-bn --seeds 8`

    Without --seeds, every seed that has results is used. The more claims are tested together, the more
    evidence each needs. Claims whose seeds `eman decide` chose are judged as it tested them: after each round of seeds,
    together with all others that it decided.
    """
    from eman.evaluation.results import verdicts as printed
    from eman.evaluation.results.claims import judge
    from eman.sweeps.claims.deciding import sequential_verdicts
    from eman.sweeps.claims.registry import claim_results, claims_named
    from eman.sweeps.plan import plan

    if as_json and form is not None:
        raise UserError(f"--json and --format {form}: give one of the two.")
    check_format(form, out)
    chosen = claims_named(what or [])
    if list_:
        width = max(len(claim.name) for claim in chosen)
        print("\n".join(f"{claim.name:{width}}  {claim.says} ({claim.source})" for claim in chosen))
        return
    tables = {ref.table for claim in chosen for ref in claim.refs}
    planned = plan(new_request(sorted(tables), scale, evaluated, Grid()))
    store = open_store()
    seeds = None if scale.seeds is None else planned.request.seeds
    decided = sequential_verdicts(planned.request, store) if seeds is None else {}
    others = [claim for claim in chosen if claim not in decided]
    judged = [*(decided[claim] for claim in chosen if claim in decided)]
    judged += judge(claim_results(others, planned.scope, store, seeds)) if others else []
    if form == "parquet" and out is not None:
        with output_file(out) as temporary:
            printed.frame(judged).to_parquet(temporary, index=False)
        print(f"wrote {out}")
    elif as_json:
        write_text(printed.frame(judged).to_json(orient="records", force_ascii=False), out)
    else:
        write_text(printed.render(judged, form or "text"), out)
