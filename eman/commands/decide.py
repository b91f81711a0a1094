"""The command `decide`: run the seeds that claims need."""

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from eman.commands.sweep import AddressOption, DryRunOption, check_address, launch, launch_options
from eman.context import open_store, workspace
from eman.groups import expand_groups
from eman.options import ClaimsArgument, Evaluated, Grid, Labels, Resources, Scale
from eman.parsing import check_number
from eman.platform.errors import UserError
from eman.platform.machine import cores
from eman.requests import CLAIMS, new_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eman.evaluation.results.claims import Claim
    from eman.evaluation.results.sequential import Decision
    from eman.sweeps.claims.deciding import Round
    from eman.sweeps.request import SweepRequest
    from eman.sweeps.run.options import Options

app = typer.Typer()

#: Seconds of a budget's units.
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


@app.command(rich_help_panel="Run")
@expand_groups
def decide(
    what: ClaimsArgument = None,
    *,
    scale: Scale,
    evaluated: Evaluated,
    max_seeds: Annotated[int, typer.Option(help="Give up on claims still undecided after this many seeds.")] = 24,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start no round that would end after this time: 90m, 4h or 2d."),
    ] = None,
    dry_run: DryRunOption = False,
    labels: Labels,
    resources: Resources,
    address: AddressOption = None,
) -> None:
    """Run seeds until the paper's claims are decided: few for clear results, more for close ones.

    - `eman decide --profile mini --budget 4h`
    - `eman decide moco-eman-bn byol-eman-bn --profile mini --max-seeds 16 --dry-run`

    Every claim gets 4 seeds first; those that are then undecided, neither shown nor futile, get 4 more, and so on. Each
    test spends part of the 5 % error probability, so testing repeatedly does not make a wrong verdict more likely. The
    same command continues an interrupted one. `eman claims` prints the verdicts.
    """
    if scale.seeds is not None:
        raise UserError("--seeds has no effect here, since the results choose the seeds; give --max-seeds.")
    check_number("--max-seeds", max_seeds, 2, 100)
    check_address(resources, address)
    hours = None if budget is None else parse_budget(budget) / 3600
    request = new_request([CLAIMS, *(what or [])], scale, evaluated, Grid())
    request = request.model_copy(update={"max_seeds": max_seeds, "family": request.claims})
    _run_rounds(request, None if dry_run else launch_options(resources, labels, address), hours)


def _run_rounds(request: "SweepRequest", options: "Options | None", hours: float | None) -> None:
    """Print and run rounds until every claim is decided or the hours are used up; without options, print the next."""
    from eman.sweeps.checks import check_files
    from eman.sweeps.claims.deciding import next_round, read_decisions
    from eman.sweeps.cost import measured, recent
    from eman.sweeps.plan import plan

    planned, store, started = plan(request), open_store(), time.monotonic()
    check_files(planned.trainings.values(), workspace(), planned.pairs)
    # The processes of a cluster are not known yet; then the budget is compared with one.
    processes = cores() if options is None or options.address is None else 1
    before: tuple[tuple[Claim, ...], int, int] | None = None
    while True:
        left = None if hours is None else (hours - (time.monotonic() - started) / 3600) * processes
        decided = read_decisions(request, store)
        following = next_round(request, decided, store, measured(recent(store), planned), left)
        print("\n".join(_lines(decided, following)), file=sys.stdout if options is None else sys.stderr)
        if following is None or options is None:
            return
        if (following.claims, following.seeds, following.new) == before:
            raise UserError("the last round changed nothing, since its runs fail; `eman status` lists them.")
        before = following.claims, following.seeds, following.new
        launch(following.sweep, options)


def _lines(decided: "Mapping[Claim, Decision]", following: "Round | None") -> list[str]:
    """Return what is decided, and what runs next."""
    from eman.evaluation.results.verdicts import count_claims

    width = max(len(claim.name) for claim in decided)
    lines = [f"  {claim.name:{width}}  {d.reason}" for claim, d in decided.items() if d.outcome is not None]
    undecided = sum(d.outcome is None for d in decided.values())
    lines = [f"decided: {len(decided) - undecided} of {count_claims(len(decided))}", *lines]
    if following is None:
        left = f"{count_claims(undecided)} left for a larger budget."
        return [*lines, left if undecided else "`eman claims` prints the verdicts."]
    hours = "of unknown length" if following.hours is None else f"about {following.hours:.2g} h of one process"
    runs = f"{following.new} new trainings, {hours}"
    lines.append(f"next: {count_claims(len(following.claims))} to {following.seeds} seeds, {runs}")
    lines += [f"  {claim.name:{width}}  {claim.says}" for claim in following.claims]
    if following.postponed:
        lines.append(f"beyond the budget: {', '.join(claim.name for claim in following.postponed)}")
    return lines


def parse_budget(text: str) -> float:
    """Return the seconds of `90m`, `4h` or `2d`."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([mhd])", text.strip())
    if found is None or not float(found[1]):
        raise UserError(f"--budget {text}: give a time such as 90m, 4h or 2d.")
    return float(found[1]) * _UNITS[found[2]]
