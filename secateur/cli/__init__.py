"""The command line: `secateur …`. Exit codes: 0 well, 1 failed, 2 wrong use, 3 job cancelled, 130 interrupted."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import (
    control,
    events,
    files,
    history,
    jobs,
    lineage,
    local,
    plans,
    projects,
    resources,
    webhooks,
)
from secateur.cli.context import Connection, errors
from secateur.cli.exits import Exit
from secateur.errors import ProblemError, SecateurError

app = typer.Typer(
    name="secateur",
    help="Prune large language models as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def connect(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The server; else SECATEUR_URL, else the local stack.")] = None,
    key: Annotated[str | None, typer.Option(help="The API key; else SECATEUR_API_KEY.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder of the local stack; else SECATEUR_STATE.", show_default=False)
    ] = None,
) -> None:
    """Remember where the server is; nothing is opened before a command needs it."""
    context.obj = Connection(url, key, state)


for command in (
    *(jobs.submit, jobs.watch, jobs.get, jobs.evaluation, lineage.lineage, plans.plan),
    *(control.cancel, control.pause, control.resume, control.retry, control.change, control.rm),
    *(
        events.events,
        events.queue,
        events.attempts,
        events.logs,
        history.sensitivity,
        history.compare,
        history.matrices,
    ),
    *(files.download, files.verify, files.state, resources.version, local.up, local.demo),
    *(projects.whoami, projects.audit),
):
    app.command()(command)
app.command("ls")(jobs.list_jobs)
app.command("plans")(plans.list_plans)
app.add_typer(resources.datasets, name="datasets")
app.add_typer(resources.models, name="models")
app.add_typer(webhooks.webhooks, name="webhooks")
app.add_typer(projects.projects, name="projects")
app.add_typer(projects.keys, name="keys")


def main() -> None:
    """Entry point of the console script: errors as one clear text, without a stack trace."""
    try:
        app()
    except ProblemError as error:
        errors.print(f"error: {error}")
        sys.exit(Exit.usage if error.status in (400, 422) else Exit.failed)
    except SecateurError as error:
        errors.print(f"error: {error}")
        sys.exit(Exit.failed)
    except KeyboardInterrupt:
        sys.exit(Exit.interrupted)
    except BrokenPipeError:
        # The reader of our output has had enough, as with `| head`.
        sys.stderr.close()
        sys.exit(Exit.failed)
