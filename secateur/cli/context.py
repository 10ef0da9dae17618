"""What all commands share: common arguments, and where they print."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from secateur.cli.connection import connect as client_of
from secateur.cli.ids import completion, whole

JobId = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="job_…, or how it begins.", callback=whole("job"), autocompletion=completion("job")
    ),
]
JobIds = Annotated[
    list[str],
    typer.Argument(metavar="JOB…", help="Finished jobs.", callback=whole("job"), autocompletion=completion("job")),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API has it.")]

output = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

__all__ = ["AsJson", "JobId", "JobIds", "bytes_bar", "client_of", "errors", "output", "print_json", "say"]


def print_json(value: Any) -> None:
    """For other programs: plain, indented, without colours."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def bytes_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes that are sent or fetched, on a terminal: what it is told of `done` and `total`."""
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(as_json: bool, value: Any, text: Any) -> None:
    """What a command has to say: the whole value for programs, or a few words of it for people."""
    if as_json:
        print_json(value)
    else:
        output.print(str(text))
