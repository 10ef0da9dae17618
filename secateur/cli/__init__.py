"""The command line: `secateur …`. What its exit codes mean is in `secateur.cli.exits`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import (
    control,
    events,
    fields,
    files,
    history,
    hub,
    jobs,
    lineage,
    local,
    login,
    mlflow,
    packing,
    plans,
    plot,
    projects,
    resources,
    webhooks,
)
from secateur.cli.connection import Connection
from secateur.cli.context import errors
from secateur.cli.exits import Exit
from secateur.errors import NotReachable, ProblemError, SecateurError

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
    url: Annotated[
        str | None, typer.Option(help="The server; else SECATEUR_URL, what `login` kept, the local stack.")
    ] = None,
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
    *(
        projects.whoami,
        projects.audit,
        login.login,
        login.logout,
        plot.plot,
        packing.pack,
        packing.unpack,
        hub.publish,
    ),
):
    app.command()(command)
app.command("log-mlflow")(mlflow.log_mlflow)
app.command("ls")(jobs.list_jobs)
app.command("plans")(plans.list_plans)
app.command("fields")(fields.list_fields)
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
        sys.exit(Exit.not_reachable if isinstance(error, NotReachable) else Exit.failed)
    except KeyboardInterrupt:
        sys.exit(Exit.interrupted)
    except BrokenPipeError:
        # The reader of our output has had enough, as with `| head`.
        sys.stderr.close()
        sys.exit(Exit.failed)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
        errors.print(f"error: {named}")
        sys.exit(Exit.failed)
    except UnicodeEncodeError as error:
        signs = error.object[error.start : error.end]
        errors.print(f"error: {signs!a} is no text in {error.encoding}")
        sys.exit(Exit.failed)
