"""Commands for a cluster's job server: submit, jobs, logs, stop."""

import sys
from typing import Annotated

import typer

from eman.commands.printing import show
from eman.commands.sweep import DryRunOption, NameOption, WhatArgument, checked_plan, print_plan
from eman.context import given_variables, workspace
from eman.groups import expand_groups
from eman.options import Evaluated, Grid, Labels, Resources, Scale
from eman.platform.errors import UserError

app = typer.Typer()

#: Ray's environment variables for the address of a job server.
_VARIABLES = ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"]

JobServer = Annotated[
    str, typer.Option("--address", envvar=_VARIABLES, help="The cluster's job server, for example http://HOST:8265.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job, as listed by `eman jobs`.")]


@app.command(rich_help_panel="Cluster")
@expand_groups
def submit(
    what: WhatArgument,
    address: JobServer,
    scale: Scale,
    evaluated: Evaluated,
    name: NameOption = None,
    dry_run: DryRunOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return without following the output.")] = False,
    python: Annotated[str | None, typer.Option(help="Python on the cluster. Default: python.")] = None,
    *,
    grid: Grid,
    labels: Labels,
    resources: Resources,
) -> int:
    """Run a sweep on a cluster as a Ray job and follow it. The exit code is the sweep's.

    - `eman submit 1 8 --profile mini --address http://HOST:8265`

    The project's source is sent with the job. The same command continues an interrupted sweep.
    """
    if dry_run and (detach or python is not None):
        raise UserError(f"{'--detach' if detach else '--python'} has no effect with --dry-run; leave it out.")
    if python is not None and not python.strip():
        raise UserError("--python is empty; give a program, or leave it out.")
    from eman.sweeps.checks import check_shared

    planned = checked_plan(what, scale, evaluated, grid, resources, name)
    unchecked = check_shared(planned.trainings.values(), workspace(), planned.pairs)
    if dry_run:
        print_plan(planned)
        data = f"that it can read {', '.join(unchecked)}, and " if unchecked else ""
        print(f"Only the cluster can check {data}that one run fits its resources.")
        return 0
    from eman.sweeps.run import submit as jobs

    connected = jobs.client(address)
    words = [*labels.words(), *resources.words()]
    job = jobs.submit(connected, address, planned, words, python, given_variables())
    print(f"submitted {job}; follow it with `eman logs {job} --address {address}`", file=sys.stderr)
    if detach:
        return 0
    for text in jobs.logs(connected, job):
        print(text, end="", flush=True)
    return jobs.exit_code(connected, job)


@app.command(name="jobs", rich_help_panel="Cluster")
def list_jobs(address: JobServer) -> None:
    """List the sweeps submitted to a cluster: status, start, time taken, name."""
    from eman.sweeps.run import submit as jobs

    show(jobs.listing(jobs.client(address)))


@app.command(rich_help_panel="Cluster")
def logs(
    job: JobId,
    address: JobServer,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Continue until the job ends.")] = True,
) -> None:
    """Print the output of a submitted sweep."""
    from eman.sweeps.run import submit as jobs

    for text in jobs.logs(jobs.client(address), job, follow=follow):
        print(text, end="", flush=True)


@app.command(rich_help_panel="Cluster")
def stop(job: JobId, address: JobServer) -> None:
    """Stop a submitted sweep and wait until it has ended.

    Finished runs are kept, others keep their checkpoints, and the same submission continues.
    """
    from eman.sweeps.run import submit as jobs

    print(jobs.stop(jobs.client(address), job))
