"""Commands for planning: plan, fields, schemes, profiles."""

from typing import Annotated

import typer

from eman.commands.printing import show
from eman.context import open_store
from eman.groups import expand_groups
from eman.options import Evaluated, Grid, JsonOption, PriceOption, Scale, WattsOption
from eman.parsing import check_number
from eman.requests import known_request

app = typer.Typer()


@app.command(name="plan", rich_help_panel="Look")
@expand_groups
def plan_(
    what: Annotated[
        list[str],
        typer.Argument(metavar="TABLE... | grid | SWEEP", help="Tables, grid, or the name of a sweep in the store."),
    ],
    scale: Scale,
    evaluated: Evaluated,
    throughput: Annotated[
        str | None,
        typer.Option(
            "--images-per-second",
            metavar="N | METHOD=N,...",
            help="Training speed of one GPU (or one process). Default: the median measured in the store.",
        ),
    ] = None,
    price: PriceOption = None,
    watts: WattsOption = None,
    difference: Annotated[
        float | None,
        typer.Option(help="Also print how many seeds would find this difference between rows, and their cost."),
    ] = None,
    as_json: JsonOption = False,
    *,
    grid: Grid,
) -> None:
    """Estimate a sweep's cost: trainings, evaluations, epochs, images, storage, hours, energy, money.

    - `eman plan 2 --profile imagenet --images-per-second moco=1340,byol=900,supervised=2500`
    - `eman plan 1 --profile mini --difference 0.5 --price-per-gpu-hour 2.5`
    - `eman plan grid --method moco --scheme bn,eman --grid lr=0.1,0.3`
    """
    from eman.sweeps.cost import cost_of, measured, parse_throughput, recent
    from eman.sweeps.plan import plan
    from eman.sweeps.price import priced, rates

    check_number("--price-per-gpu-hour", price, 0, 1e6)
    check_number("--watts", watts, 0, 1e6)
    check_number("--difference", difference, 1e-3, 100)
    speeds = parse_throughput(throughput) if throughput is not None else None
    request = known_request(what, scale, evaluated, grid, profile="imagenet")
    if request.search == "optuna":  # points that are not known yet cost as much as random ones
        request = request.model_copy(update={"search": "random"})
    planned = plan(request)
    store = open_store()
    runs = recent(store) if speeds is None else []
    cost = cost_of(planned, measured(runs, planned) if speeds is None else speeds)
    lines, values = priced(cost, rates(runs, watts, price), store, difference)
    show([*cost.lines(), *lines], cost.summary() | values, as_json=as_json)


@app.command(rich_help_panel="Look")
def fields(
    method: Annotated[
        str | None,
        typer.Argument(help="A method, or a protocol for its fields. Default: all methods."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Scale that gives the defaults of runs.")] = "quick",
    as_json: JsonOption = False,
) -> None:
    """List the fields for `--set` and `--grid`, with description, default and range.

    - `eman fields moco --profile mini`
    - `eman fields linear`
    """
    from eman.evaluation.protocols.registry import PROTOCOLS
    from eman.sweeps.view.fields import field_lines, field_values, listed_fields, protocol_fields

    listed = protocol_fields(method) if method and method in PROTOCOLS else listed_fields(method, profile)
    show(field_lines(listed), [field_values(field) for field in listed], as_json=as_json)


@app.command(rich_help_panel="Look")
def schemes(
    name: Annotated[str | None, typer.Argument(help="A scheme. Default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the schemes of `--scheme`: how student and teacher normalize, by equation and source.

    - `eman schemes`
    - `eman schemes momentum2`
    """
    from eman.sweeps.view.schemes import listed_schemes, scheme_lines, scheme_values

    listed = listed_schemes(name)
    show(scheme_lines(listed), [scheme_values(name, scheme) for name, scheme in listed.items()], as_json=as_json)


@app.command(rich_help_panel="Look")
def profiles(
    name: Annotated[str | None, typer.Argument(help="A profile. Default: one line for each.")] = None,
) -> None:
    """List the profiles, or describe one: source, cost, published numbers, commands of its variants.

    - `eman profiles cifar10`
    """
    from eman.sweeps.profiles.registry import PROFILES, profile_named

    if name is None:
        show([f"{profile.name:<12}{profile.about}" for profile in PROFILES.values()])
        return
    profile = profile_named(name)
    show([profile.about, "", *(profile.recipe or "").replace("::\n", ":\n").splitlines()])
