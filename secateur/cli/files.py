"""Commands about a job's files: download, verify, state."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from secateur.cli.context import JobId, client_of, errors, output
from secateur.cli.exits import Exit

Folder = Annotated[Path | None, typer.Argument(help="Default: a folder named after the job.", show_default=False)]


def download(context: typer.Context, job: JobId, folder: Folder = None) -> None:
    """Download a job's files and check each against the manifest; goes on where it was interrupted."""
    target = folder or Path(job)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with client_of(context) as client, Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("")
        paths = client.download(
            job, target, on_bytes=lambda done, all: bar.update(task, completed=done, total=all)
        )
    output.print(f"{len(paths)} files in {target}, all as the manifest says")


def verify(
    context: typer.Context,
    job: JobId,
    folder: Folder = None,
    stored: Annotated[bool, typer.Option("--stored", help="Let the service hash what is in its store.")] = False,
) -> None:
    """Hash a downloaded folder again and compare it with the manifest."""
    if stored and folder is not None:
        raise typer.BadParameter("give either a folder or --stored")
    target = "the store" if stored else folder or Path(job)
    with client_of(context) as client:
        if stored:
            files = client.verify_stored(job)["files"]
            problems = [f"{file['path']}: missing or different in the store" for file in files if not file["ok"]]
        else:
            problems = client.verify(job, Path(target))
    for problem in problems:
        errors.print(problem)
    if problems:
        raise typer.Exit(Exit.failed)
    output.print(f"{target} is as the manifest says")


def state(
    context: typer.Context,
    job: JobId,
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Default: JOB-state.tar.", show_default=False)
    ] = None,
) -> None:
    """Export the final state as one tar file, to keep or to continue with the engine alone."""
    target = target or Path(f"{job}-state.tar")
    with client_of(context) as client:
        client.export_state(job, target)
    output.print(f"{target}: {target.stat().st_size:,} bytes")
