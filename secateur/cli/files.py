"""Commands about a job's files: download, verify, state."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.context import AsJson, JobId, bytes_bar, client_of, errors, say
from secateur.cli.exits import Exit

Folder = Annotated[Path | None, typer.Argument(help="Default: a folder named after the job.", show_default=False)]


Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Only files whose path it matches, such as 'model/*'; repeatable.", show_default=False
    ),
]


def download(
    context: typer.Context, job: JobId, folder: Folder = None, only: Only = None, as_json: AsJson = False
) -> None:
    """Download a job's files and check each against the manifest; goes on where it was interrupted."""
    target = folder or Path(job)
    with client_of(context) as client, bytes_bar() as on_bytes:
        paths = client.download(job, target, only=only, on_bytes=on_bytes)
    found = {"folder": str(target), "files": [str(path) for path in paths]}
    say(as_json, found, f"{len(paths)} files in {target}, all as the manifest says")


def verify(
    context: typer.Context,
    job: JobId,
    folder: Folder = None,
    stored: Annotated[bool, typer.Option("--stored", help="Let the service hash what is in its store.")] = False,
    as_json: AsJson = False,
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
    if not problems or as_json:
        say(as_json, {"ok": not problems, "problems": problems}, f"{target} is as the manifest says")
    if problems:
        raise typer.Exit(Exit.failed)


def state(
    context: typer.Context,
    job: JobId,
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Default: JOB-state.tar.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export the final state as one tar file, to keep or to continue with the engine alone."""
    target = target or Path(f"{job}-state.tar")
    with client_of(context) as client:
        client.export_state(job, target)
    size = target.stat().st_size
    say(as_json, {"file": str(target), "bytes": size}, f"{target}: {size:,} bytes")
