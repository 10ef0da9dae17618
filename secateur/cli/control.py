"""Commands that ask something of a job: cancel, pause, resume, retry, change, rm."""

from typing import Annotated

import typer

from secateur.cli.context import AsJson, JobId, JobIds, client_of, print_json, say
from secateur.cli.spec import parse_labels
from secateur.transport import Json


def cancel(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Cancel a job."""
    with client_of(context) as client:
        found = client.cancel(job)
    say(as_json, found, found["state"])


def pause(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Pause a job; a running one finishes the block it works on."""
    with client_of(context) as client:
        found = client.pause(job)
    say(as_json, found, found["state"])


def resume(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Let a paused job go on."""
    with client_of(context) as client:
        found = client.resume(job)
    say(as_json, found, found["state"])


def retry(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Go on with a failed or cancelled job, as a new one; prints its id."""
    with client_of(context) as client:
        found = client.retry(job)
    say(as_json, found, found["id"])


def change(
    context: typer.Context,
    job: JobId,
    priority: Annotated[int | None, typer.Option(help="Higher goes first.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="name=value; may be repeated. `name=` takes it away; others stay.")
    ] = None,
    max_runtime: Annotated[
        str | None, typer.Option(help="Fail after so long at work, such as 12h; `none`: no limit.")
    ] = None,
    max_pending: Annotated[
        str | None, typer.Option(help="Fail after so long in the queue, such as 90m; `none`: no limit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a job's priority, labels or limits; what is not given stays."""
    labels = parse_labels(label or [])
    limits = {"max_runtime": max_runtime, "max_pending": max_pending}
    given = {name: None if text == "none" else text for name, text in limits.items() if text is not None}
    if priority is None and not labels and not given:
        raise typer.BadParameter("nothing to change: give --priority, --label, --max-runtime or --max-pending")
    fields: Json = {} if priority is None else {"priority": priority}
    with client_of(context) as client:
        tag = None
        if labels or given:  # which the API replaces as a whole, so what is there must be known
            now, tag = client.tagged_job(job)
            if labels:
                kept = now["labels"] | labels
                fields["labels"] = {name: value for name, value in kept.items() if value or name not in labels}
            if given:
                fields["limits"] = now["limits"] | given
        found = client.change(job, if_match=tag, **fields)
    if as_json:
        print_json(found)


def rm(
    context: typer.Context,
    jobs: JobIds,
    as_json: AsJson = False,
) -> None:
    """Delete finished jobs with their history and files."""
    with client_of(context) as client:
        for job in jobs:
            client.delete_job(job)
    if as_json:
        print_json({"deleted": jobs})
