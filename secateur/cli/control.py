"""Commands that ask something of a job: cancel, pause, resume, retry, rm."""

from typing import Annotated

import typer

from secateur.cli.context import client_of, output

JobId = Annotated[str, typer.Argument(metavar="JOB", help="job_…")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (cancel, pause, resume, retry, rm):
        app.command()(command)


def cancel(context: typer.Context, job: JobId) -> None:
    """Cancel a job."""
    with client_of(context) as client:
        output.print(client.cancel(job)["state"])


def pause(context: typer.Context, job: JobId) -> None:
    """Pause a job; a running one finishes the block it works on."""
    with client_of(context) as client:
        output.print(client.pause(job)["state"])


def resume(context: typer.Context, job: JobId) -> None:
    """Let a paused job go on."""
    with client_of(context) as client:
        output.print(client.resume(job)["state"])


def retry(context: typer.Context, job: JobId) -> None:
    """Go on with a failed or cancelled job, as a new one; prints its id."""
    with client_of(context) as client:
        output.print(client.retry(job)["id"])


def rm(
    context: typer.Context,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB…", help="Finished jobs.")],
) -> None:
    """Delete finished jobs with their history and files."""
    with client_of(context) as client:
        for job in jobs:
            client.delete_job(job)
