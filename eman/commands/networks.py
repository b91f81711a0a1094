"""Commands that take networks in and give them out: import, export."""

from pathlib import Path
from typing import Annotated

import typer

from eman.context import workspace
from eman.options import Network, NetworkOption, Selection, SelectionOption

app = typer.Typer()


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint: a PyTorch file of tensors.")],
    layout: Annotated[str, typer.Option("--as", help="moco, byol or fixmatch: the official code's; torchvision.")],
    scheme: Annotated[str, typer.Option(help="The scheme that it was trained with.")] = "default",
    dataset: Annotated[str, typer.Option(help="The data set that it was trained on.")] = "imagenet",
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not list the tensors.")] = False,
) -> None:
    """Take in a network from elsewhere: every evaluation takes it, and training may start from it.

    - `eman import moco_eman_r50_200ep.pth.tar --as moco --scheme eman`
    """
    from eman.platform.store.store import Store
    from eman.sweeps.exchange.networks import take_in

    for line in take_in(file, layout, Store(workspace()), scheme=scheme, dataset=dataset):
        if not (quiet and line.startswith("  ")):
            print(line)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    out: Annotated[Path, typer.Option(help="File to write; mlflow: a new folder.")],
    form: Annotated[str, typer.Option("--format", help="torchvision, safetensors or mlflow.")] = "torchvision",
    network: NetworkOption = Network.student,
    selection: SelectionOption = Selection.last,
) -> None:
    """Write a run's backbone for others, or its whole network as a model that MLflow serves.

    That model takes images (N, channels, height, width) as uint8, 0 to 255, and scales them itself; it gives class
    probabilities where the run ends in a classifier (FixMatch, supervised), else features.

    - `eman export 3f2a --format torchvision --out resnet50.pth`
    - `eman export 3f2a --format mlflow --out model`, then
      `mlflow models predict -m model -i model/serving_input_example.json --env-manager local`
    """
    from eman.platform.store.records import TRAINING
    from eman.platform.store.store import Store
    from eman.sweeps.exchange.networks import give_out
    from eman.sweeps.run.foreground import find_run

    record = find_run(run, Store(workspace()).by_key(TRAINING))
    print(give_out(record, workspace(), form, out, network=network.value, selection=selection.value))
