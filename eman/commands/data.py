"""Commands for data sets: list, fetch, shard, verify, info."""

from typing import Annotated

import typer

from eman.commands.printing import show
from eman.context import workspace

app = typer.Typer(name="data", no_args_is_help=True, help="List, fetch, write and verify data sets.")

Shards = Annotated[str, typer.Argument(help="A data set's name, or a folder of shards by path or URI.")]


@app.command("list")
def data_list() -> None:
    """List data sets and whether they are on this machine."""
    from eman.sweeps.view.doctor import data_lines

    show(data_lines(workspace()))


@app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="A data set's name, or a folder by path or URI.")]) -> None:
    """Download a data set if it is missing, and check it."""
    from eman.trainers.data.catalog import read

    dataset = read(name, workspace())
    print(f"{dataset.name}: {dataset.describe()}, hash {dataset.hash}")


@app.command("shard")
def data_shard(
    name: Annotated[str, typer.Argument(help="Name of the data set for `--set dataset=NAME`.")],
    source: Annotated[
        str | None,
        typer.Option(help="Folder of images, by path or URI, or the name of a data set. Default: NAME."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write to, by path or URI. Default: NAME in the data folder.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Images per shard. Default: about 256 MiB.")
    ] = None,
) -> None:
    """Write a data set as Parquet shards for streaming. A second run resumes an interrupted one.

    - `eman data shard imagenet --source /data/imagenet --out s3://bucket/data/imagenet`
    - `EMAN_DATA=s3://bucket/data eman sweep table1 --profile imagenet` then reads them
    """
    from eman.platform.storage import Place
    from eman.trainers.data.catalog import place_of
    from eman.trainers.data.shard_writer import shard
    from eman.trainers.data.shards import info

    shard(name, workspace(), source, out, print, rows=rows)
    show(info(Place(out) if out else place_of(name, workspace())))


@app.command("verify")
def data_verify(
    where: Shards,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image.")] = False,
) -> None:
    """Read all shards; check their checksums, and their counts against the manifest."""
    from eman.trainers.data.catalog import existing_folder
    from eman.trainers.data.shards import verify

    show(verify(existing_folder(where, workspace()), decode=decode))
    print("all shards are intact")


@app.command("info")
def data_info(where: Shards) -> None:
    """Describe the content of shards."""
    from eman.trainers.data.catalog import existing_folder
    from eman.trainers.data.shards import info

    show(info(existing_folder(where, workspace())))
