"""`publish`: a job's model in a repository of a hub. It needs the extra `hub`."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.context import AsJson, JobId, client_of, say


def publish(
    context: typer.Context,
    job: JobId,
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="owner/name; made, and private, when there is none.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(help="The job's files, as `download` has them. Default: named after it.", show_default=False),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Of a repository that is made.")] = False,
    packed: Annotated[bool, typer.Option("--packed", help="The packed form in place of the plain one.")] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", help="The hub's identifier of the licence. Default: the base model's, as far as known."
        ),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The hub; else HF_ENDPOINT.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a succeeded job's model with its card to a hub, by your own token (HF_TOKEN). Again, it changes
    nothing."""
    from secateur.hub import publish as to_hub  # only here: every command would import it

    target = folder or Path(job)
    with client_of(context) as client:
        found = to_hub(
            client, job, repo, target, private=not public, packed=packed, licence=licence, endpoint=endpoint
        )
    say(as_json, {"job": job, **found._asdict()}, found.url)
