"""`plot`: a picture of what a job did. It needs the extra `figures`."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.context import AsJson, client_of, output, print_json, say
from secateur.cli.ids import completion, find, whole
from secateur.cli.show import print_table, table
from secateur.pictures import PICTURES, draw


def plot(
    context: typer.Context,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="job_…, or how it begins.", callback=whole("job"), autocompletion=completion("job")
        ),
    ] = None,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The PNG to write.")] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            help="Which picture; by default the one that the file is named after, else r.",
            autocompletion=lambda: [(name, each.shows) for name, each in PICTURES.items()],
        ),
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--with", metavar="JOB", help="Another job; may be repeated.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the pictures there are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw what a job did as a PNG: `secateur plot JOB r.png`; `--list` says what there is."""
    if list_them:
        _list(as_json)
        return
    if job is None or file is None:
        raise typer.BadParameter("give a job and the file to write, or --list")
    name = figure or (file.stem if file.stem in PICTURES else "r")
    if name not in PICTURES:
        raise typer.BadParameter(f"there is no picture {name!r}; there are {', '.join(PICTURES)}")
    picture = PICTURES[name]
    if file.suffix.lower() != ".png":
        raise typer.BadParameter(f"a picture is a PNG: name the file {file.stem}.png")
    if others and not picture.of_several:
        several = " and ".join(key for key, each in PICTURES.items() if each.of_several)
        raise typer.BadParameter(f"the picture {name!r} is of one job; --with is for {several}")
    if name == "compare" and len(others or ()) != 1:
        raise typer.BadParameter("the picture `compare` is of two jobs: give one --with")
    with client_of(context) as client:
        content = draw(client, name, job, [find(client, "job", each) for each in others or ()])
    file.write_bytes(content)
    say(as_json, {"file": str(file), "figure": name, "bytes": len(content)}, f"{file}: {picture.shows}")


def _list(as_json: bool) -> None:
    if as_json:
        print_json({name: each.shows for name, each in PICTURES.items()})
        return
    found = table("picture", "~shows")
    for name, each in PICTURES.items():
        found.add_row(name, each.shows)
    print_table(output, found)
