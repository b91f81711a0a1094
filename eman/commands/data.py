"""Commands for data sets: list, fetch, shard, verify, info."""

from typing import Annotated

import typer

from eman.context import workspace

app = typer.Typer(name="data", no_args_is_help=True, help="List, fetch, shard and verify data sets.")


@app.command("list")
def data_list() -> None:
    """Data sets by name, and whether they are on this machine."""
    from eman.sweeps.view.doctor import data_lines

    for line in data_lines(workspace()):
        print(line)


@app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="A data set's name.")]) -> None:
    """Get a data set, and check it."""
    from eman.trainers.data.catalog import load

    loaded = load(name, workspace())
    print(f"{loaded.name}: {loaded.describe()}, hash {loaded.hash}")


@app.command("shard")
def data_shard(
    name: Annotated[str, typer.Argument(help="The name by which runs will ask for it.")],
    source: Annotated[
        str | None,
        typer.Option(help="Folder of images, by path or URI; or the name of a set that is held in memory."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write to, by path or URI. Default: NAME in the data folder.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Images a shard. Default: about 256 MiB of them.")] = None,
) -> None:
    """Write a set as Parquet shards, from which training streams. Run again, it goes on where it stopped.

    - `eman data shard imagenet --source /data/imagenet --out s3://bucket/data/imagenet`
    - `EMAN_DATA=s3://bucket/data eman sweep table1 --profile imagenet` then reads them
    """
    from eman.trainers.data.sharding import info, shard

    shard(name, workspace(), source, out, print, rows=rows)
    for line in info(out or name, workspace()):
        print(line)


@app.command("verify")
def data_verify(
    where: Annotated[str, typer.Argument(help="Folder of shards, by path or URI, or a set's name.")],
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, too.")] = False,
) -> None:
    """Read every shard, and compare counts and checksums with those written down."""
    from eman.trainers.data.sharding import place_of
    from eman.trainers.data.shards import verify

    for line in verify(place_of(where, workspace()), decode=decode):
        print(line)
    print("all is well")


@app.command("info")
def data_info(where: Annotated[str, typer.Argument(help="Folder of shards, by path or URI, or a set's name.")]) -> None:
    """Say what shards hold."""
    from eman.trainers.data.sharding import info

    for line in info(where, workspace()):
        print(line)
