"""The server that a command talks to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from secateur.client import Client
from secateur.config import find_config


@dataclass(frozen=True)
class Connection:
    """The options that name a server."""

    url: str | None
    key: str | None
    state: Path | None


def connect(context: typer.Context, **options: Any) -> Client:
    """The client that the options, the environment, `secateur login` or the local stack describe.

    options: of the Client. Raises SecateurError.
    """
    connection = context.obj
    if not isinstance(connection, Connection):  # a shell asks for completions: no command has begun
        given = context.find_root().params
        connection = Connection(given.get("url"), given.get("key"), given.get("state"))
    config = find_config(connection.url, connection.key, connection.state)
    return Client(config.url, config.key, **options)
