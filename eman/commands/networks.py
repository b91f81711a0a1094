"""Commands for networks: import, export, predict."""

from pathlib import Path
from typing import Annotated

import typer

from eman.commands.printing import show
from eman.context import open_store, workspace
from eman.options import JsonOption, NetworkOption, RunArgument, SelectionOption
from eman.parsing import check_number
from eman.platform.output import check_output

app = typer.Typer()


@app.command(name="import", rich_help_panel="Networks")
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint: a PyTorch file of tensors.")],
    layout: Annotated[
        str, typer.Option("--as", help="Layout: moco, byol or fixmatch (of the official code), or torchvision.")
    ],
    scheme: Annotated[str, typer.Option(help="Scheme of its training.")] = "default",
    dataset: Annotated[str, typer.Option(help="Data set of its training.")] = "imagenet",
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list the tensors.")] = False,
) -> None:
    """Import a checkpoint for evaluation or initialization.

    - `eman import moco_eman_r50_200ep.pth.tar --as moco --scheme eman`
    """
    from eman.evaluation.exchange.importing import import_network

    lines = import_network(file, layout, open_store(), scheme=scheme, dataset=dataset)
    show(line for line in lines if not (quiet and line.startswith("  ")))


@app.command(rich_help_panel="Networks")
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="File to write; for mlflow, a new folder.")],
    form: Annotated[str, typer.Option("--format", help="torchvision, safetensors or mlflow.")] = "torchvision",
    network: NetworkOption = "student",
    selection: SelectionOption = "last",
) -> None:
    """Export a run's backbone for other programs, or its network as an MLflow model.

    - `eman export 3f2a --format torchvision --out resnet50.pth`
    - `eman export 3f2a --format mlflow --out model`, then
      `mlflow models predict -m model -i model/serving_input_example.json --env-manager local`

    The MLflow model takes uint8 images of shape (N, channels, height, width). It returns class probabilities for a
    classifier (FixMatch, supervised), else features.
    """
    from eman.sweeps.runs import find_finished_run

    if form != "mlflow":
        check_output(out)
    record = find_finished_run(run, open_store())
    from eman.evaluation.exchange.export import export_network

    print(export_network(record, workspace(), form, out, network=network, selection=selection))


@app.command(rich_help_panel="Networks")
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files of any size.")],
    network: NetworkOption = "student",
    selection: SelectionOption = "last",
    top: Annotated[int, typer.Option(help="Number of classes and neighbours to show for each image.")] = 5,
    k: Annotated[
        int | None, typer.Option("--k", help="Neighbours that vote, for self-supervised runs. Default: 20.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify your images, or find their nearest neighbours.

    - `eman predict 3f2a shoe.png shirt.jpg --network teacher --top 3`

    A classifier (FixMatch, supervised) gives probabilities. A self-supervised run shows the nearest training images and
    their votes.
    """
    from eman.sweeps.runs import find_finished_run

    check_number("--top", top, 1, 1000)
    check_number("--k", k, 1, 10_000)
    record = find_finished_run(run, open_store())
    from eman.evaluation.exchange.predict import predict as ask

    predictions = ask(record, workspace(), images, network=network, selection=selection, k=20 if k is None else k)
    show(predictions.lines(top), predictions.content(top), as_json=as_json)
