"""Commands for a cluster's job server: submit, jobs, logs, stop."""

import sys
from typing import Annotated

import typer

from eman.context import given_variables

app = typer.Typer()


JobServer = Annotated[str, typer.Option(help="The cluster's job server, for example http://HOST:8265.")]
JobId = Annotated[str, typer.Argument(help="A job's id, as `eman jobs` lists it.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: JobServer,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once instead of following the output.")] = False,
    python: Annotated[str | None, typer.Option(help="Python on the cluster; default: python.")] = None,
) -> int:
    """Run a sweep on a cluster through Ray Jobs, and follow it; ends with the sweep's exit code.

    Arguments and options are those of `eman sweep`; the project travels along. The same command continues an
    interrupted sweep.

    - `eman submit table1 table8 --profile mini --address http://HOST:8265`
    """
    from eman.cli import app as whole
    from eman.sweeps.run import submit as jobs

    variables = given_variables()
    whole(args=["sweep", *context.args, "--dry-run"], standalone_mode=False)  # a typo is found here, not on the cluster
    connected = jobs.client(address)
    job = jobs.submit(connected, address, context.args, python, variables)
    print(f"submitted {job}; `eman logs {job} --address {address}` follows it", file=sys.stderr)
    if detach:
        return 0
    for text in jobs.logs(connected, job):
        print(text, end="", flush=True)
    return jobs.exit_code(connected, job)


@app.command(name="jobs")
def jobs_(address: JobServer) -> None:
    """List the sweeps that were submitted to a cluster."""
    from eman.sweeps.run import submit as jobs

    for line in jobs.listing(jobs.client(address)):
        print(line)


@app.command()
def logs(
    job: JobId,
    address: JobServer,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends.")] = True,
) -> None:
    """Print the output of a submitted sweep."""
    from eman.sweeps.run import submit as jobs

    for text in jobs.logs(jobs.client(address), job, follow=follow):
        print(text, end="", flush=True)


@app.command()
def stop(job: JobId, address: JobServer) -> None:
    """Stop a submitted sweep; what it has finished is kept."""
    from eman.sweeps.run import submit as jobs

    jobs.stop(jobs.client(address), job)
