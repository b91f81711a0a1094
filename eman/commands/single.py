"""Commands for one run in the foreground: train, evaluate."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from eman.commands.printing import show
from eman.context import open_store, workspace
from eman.options import NetworkOption, RunArgument, SelectionOption, SetOption, WorkersOption
from eman.parsing import check_number, parse_workers
from eman.platform import modules
from eman.platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eman.trainers.spec.kinds import Value

app = typer.Typer()


@app.command(rich_help_panel="Run")
def train(
    method: Annotated[str, typer.Argument(help="A method, for example moco. `eman fields` lists them.")],
    scheme: Annotated[str, typer.Option(help="Scheme, for example bn, syncbn, shufflebn, eman.")] = "default",
    profile: Annotated[str, typer.Option(help="Scale, as for `sweep`.")] = "smoke",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    init: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from the backbone of this finished run.")
    ] = None,
    workers: WorkersOption = None,
    set_: SetOption = None,
) -> None:
    """Train one run in the foreground, with progress.

    - `eman train moco --scheme eman --profile smoke --set epochs=2`

    The same command continues an interrupted run.
    """
    from eman.sweeps.checks import check_files, check_workers
    from eman.sweeps.profiles.registry import profile_named
    from eman.trainers.spec.fields import parse_fields

    check_number("--seed", seed, 0, 2**63 - 1)
    processes, chosen = parse_workers(workers) or 1, profile_named(profile)
    overrides = _for_method(method, parse_fields(set_ or []))
    if "seed" in overrides:
        raise UserError("seed cannot be set; give --seed.")
    spec = chosen.run(method, scheme, seed, overrides)
    check_workers(processes, [spec])
    check_files([spec], workspace())
    from eman.evaluation.trained import Trained
    from eman.sweeps.run.foreground import train_in_foreground
    from eman.sweeps.runs import find_finished_run

    store = open_store()
    if init is not None:
        start = Trained(find_finished_run(init, store).key, workspace()).spec
        fields = {**chosen.from_pretrained, "backbone": start.network.backbone, **overrides}
        spec = chosen.run(method, scheme, seed, fields).replace(init=start)
    options = {"scheme": scheme, "profile": profile, "seed": str(seed) if seed else "", "init": init or ""}
    words = [word for name, value in options.items() if value for word in (f"--{name}", value)]
    words += [word for pair in set_ or [] for word in ("--set", pair)]
    command = shlex.join(["eman", *modules.arguments(), "train", method, *words])
    show(train_in_foreground(spec, store, profile=profile, workers=processes, command=command))


def _for_method(method: str, overrides: "Mapping[str, Value]") -> "dict[str, Value]":
    """Return the overrides without the method's prefix; raise `UserError` for those of another method."""
    for name in overrides:
        owner, dot, _ = name.rpartition(".")
        if dot and owner != method:
            raise UserError(f"{name} has no effect on a run of {method}; leave it out.")
    return {name.rpartition(".")[2]: value for name, value in overrides.items()}


@app.command(rich_help_panel="Run")
def evaluate(
    run: RunArgument,
    protocol: Annotated[
        str, typer.Option(help="A protocol, for example linear, finetune, knn, retrieval or lowshot.")
    ] = "knn",
    network: NetworkOption = "student",
    selection: SelectionOption = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Override a field of the evaluation, for example `--set k=5`. Repeatable.",
        ),
    ] = None,
) -> None:
    """Evaluate one run in the foreground, print the results and store them.

    - `eman evaluate 3f2a --protocol linear`
    - `eman evaluate 3f2a --protocol knn --set k=200 --set temperature=0.07 --network teacher`

    The defaults are those of the run's profile, so the result fills its table's cell. Linear evaluation and finetuning
    search the profile's learning rates unless `lr` is set.
    """
    from eman.evaluation.protocols.spec import parse_eval_fields

    fields = parse_eval_fields(protocol, set_ or [])
    for name in ("network", "selection"):
        if name in fields:
            raise UserError(f"{name} cannot be set by hand; give --{name}.")
    from eman.sweeps.run.foreground import evaluate_in_foreground

    show(evaluate_in_foreground(run, open_store(), protocol, network, selection, fields))
