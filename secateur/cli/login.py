"""`login` and `logout`: a server and its key, kept for the commands that follow."""

import sys
from typing import Annotated

import typer

from secateur.cli.context import AsJson, say
from secateur.client import Client
from secateur.config import Config, forget_login, store_login


def login(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The server: https://…")],
    as_json: AsJson = False,
) -> None:
    """Ask for an API key (or read it from standard input), check it, and keep it with the server's address."""
    key = context.obj.key or (_asked() if sys.stdin.isatty() else sys.stdin.readline()).strip()
    with Client(url, key, retry_seconds=0) as client:
        found = client.whoami()
        path = store_login(Config(client.url, key))
    name = found["key"]["name"]
    say(as_json, found, f"{client.url} as {name} of {found['project']['name']}, kept in {path}")


def logout(as_json: AsJson = False) -> None:
    """Forget what `login` has kept; the key itself goes on working."""
    there = forget_login()
    say(as_json, {"forgotten": there}, "forgotten" if there else "nothing was kept")


def _asked() -> str:
    return str(typer.prompt("API key", hide_input=True, err=True))
