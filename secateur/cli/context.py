"""What all commands share: the connection, common arguments, and where they print."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from secateur.client import Client
from secateur.config import find_config

JobId = Annotated[str, typer.Argument(metavar="JOB", help="job_…")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]

output = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Connection:
    """The options that name a server."""

    url: str | None
    key: str | None
    state: Path | None


def client_of(context: typer.Context) -> Client:
    """The client that the options, the environment or the local stack describe."""
    connection: Connection = context.obj
    config = find_config(connection.url, connection.key, connection.state)
    return Client(config.url, config.key)


def print_json(value: Any) -> None:
    """For other programs: plain, indented, without colours."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
