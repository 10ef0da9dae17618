"""Commands about the local stack: up, demo. They need the extra `local`."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from secateur.errors import SecateurError

StateOption = Annotated[Path | None, typer.Option(help="State folder; survives restarts.", show_default=False)]


def up(
    context: typer.Context,
    state: StateOption = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the API; default: the last one.", min=1, max=65535)
    ] = None,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    model_root: Annotated[
        list[Path] | None, typer.Option(help="Folder below which models may be registered; may be repeated.")
    ] = None,
) -> None:
    """Start the whole service on this machine; Ctrl-C stops it."""
    module = _local("app.local.up")
    raise typer.Exit(module.run(state or context.obj.state, host, port, model_root or []))


def demo(
    context: typer.Context,
    state: Annotated[
        Path | None,
        typer.Option(help="Keep everything in this folder; default: a temporary one.", show_default=False),
    ] = None,
) -> None:
    """Prune a small model over three domains with a stack of its own and show what came out."""
    module = _local("app.local.demo")
    raise typer.Exit(module.run(state or context.obj.state))


def _local(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise SecateurError(
            f"this command needs the local stack ({error.name} is missing): pip install 'secateur[demo]'"
        ) from error
