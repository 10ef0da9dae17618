"""Commands about datasets and models, and `version`."""

from pathlib import Path
from typing import Annotated

import typer

import secateur
from secateur.cli import show
from secateur.cli.context import AsJson, bytes_bar, client_of, errors, output, print_json, say
from secateur.cli.exits import Exit
from secateur.cli.ids import completion, whole
from secateur.client import Client
from secateur.transport import Answer, Json

datasets = typer.Typer(help="Calibration and evaluation texts.", no_args_is_help=True)
models = typer.Typer(help="Models to prune.", no_args_is_help=True)


def version(as_json: AsJson = False) -> None:
    """Print the version of this program."""
    say(as_json, {"version": secateur.__version__}, secateur.__version__)


@datasets.command("add")
def add_dataset(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A .txt, .jsonl, .csv or .parquet file to upload, also .gz or .zst.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="txt, jsonl, csv or parquet, with .gz or .zst if packed; when the suffix does not tell."
        ),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="Field or column that holds the text or the messages.")
    ] = None,
    hub: Annotated[str | None, typer.Option(help="Instead of a file: a dataset's id on the hub.")] = None,
    config: Annotated[str | None, typer.Option(help="Its configuration.")] = None,
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Its commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file, or refer to a hub dataset; prints the id."""
    if (file is None) == (hub is None):
        raise typer.BadParameter("give either a file or --hub")
    with client_of(context) as client:
        if file is not None:
            with bytes_bar() as on_bytes:
                found = client.upload_dataset(
                    file, name=name, format=format, text_field=text_field, on_bytes=on_bytes
                )
            if found["state"] == "pending":
                found = client.wait_for_dataset(found["id"])
        else:
            given = {"id": hub, "config": config, "split": split, "revision": revision, "text_field": text_field}
            wanted = {field: value for field, value in given.items() if value is not None}
            found = client.add_hub_dataset(name or str(hub), **wanted)
            found = client.wait_for_dataset(found["id"])
    _print_added(found, as_json)


@datasets.command("ls")
def list_datasets(context: typer.Context, as_json: AsJson = False) -> None:
    """List datasets, newest first."""
    with client_of(context) as client:
        found = list(client.datasets())
    if as_json:
        print_json(found)
        return
    table = show.table("dataset", "state", "format", ">size", ">documents", "~name")
    for each in found:
        documents = "–" if each["documents"] is None else str(each["documents"])
        table.add_row(
            each["id"], each["state"], each["format"] or "–", show.size(each["bytes"]), documents, each["name"]
        )
    show.print_table(output, table)


@datasets.command("rm")
def remove_datasets(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET…",
            help="Datasets that no unfinished job needs.",
            callback=whole("ds"),
            autocompletion=completion("ds"),
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete datasets and their texts."""
    with client_of(context) as client:
        for id in ids:
            client.delete_dataset(id)
    if as_json:
        print_json({"deleted": ids})


@models.command("add")
def add_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    folder: Annotated[str | None, typer.Option(help="A safetensors folder, below a model root.")] = None,
    upload: Annotated[
        Path | None, typer.Option(help="A safetensors folder on this machine, which is sent to the server.")
    ] = None,
    going_on: Annotated[
        str | None, typer.Option("--resume", help="With --upload: the id of an upload that was broken off.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="A GGUF file, below a model root.")] = None,
    dtype: Annotated[str, typer.Option(help="What a GGUF is converted to.")] = "bfloat16",
    hub: Annotated[str | None, typer.Option(help="A model's id on the hub.")] = None,
    revision: Annotated[str | None, typer.Option(help="Its commit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a model and wait until it is checked; prints the id."""
    sources: list[Json] = []
    if folder is not None:
        sources.append({"type": "folder", "path": folder})
    if gguf is not None:
        sources.append({"type": "gguf", "path": gguf, "dtype": dtype})
    if hub is not None:
        sources.append({"type": "hub", "id": hub} | ({"revision": revision} if revision else {}))
    if len(sources) + (upload is not None) != 1:
        raise typer.BadParameter("give exactly one of --folder, --gguf, --hub and --upload")
    with client_of(context) as client:
        if upload is not None:
            _print_added(_upload(client, name, upload, going_on), as_json)
            return
        _print_added(client.wait_for_model(client.add_model(name, sources[0])["id"]), as_json)


@models.command("ls")
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List models, newest first."""
    with client_of(context) as client:
        found = list(client.models())
    if as_json:
        print_json(found)
        return
    table = show.table("model", "state", "type", "dtype", ">parameters", ">size", "~name")
    for each in found:
        parameters = "–" if each["parameters"] is None else f"{each['parameters'] / 1e6:.1f} M"
        kind, dtype, size = each["model_type"] or "–", each["dtype"] or "–", show.size(each["bytes"])
        table.add_row(each["id"], each["state"], kind, dtype, parameters, size, each["name"])
    show.print_table(output, table)


@models.command("rm")
def remove_models(
    context: typer.Context,
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Models that no job refers to.",
            callback=whole("mdl"),
            autocompletion=completion("mdl"),
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete models and their files."""
    with client_of(context) as client:
        for id in ids:
            client.delete_model(id)
    if as_json:
        print_json({"deleted": ids})


def _upload(client: Client, name: str, folder: Path, model: str | None) -> Answer:
    with bytes_bar() as on_bytes:
        found = client.upload_model(folder, name=name, model=model, on_bytes=on_bytes)
    return client.wait_for_model(found["id"])


def _print_added(resource: Answer, as_json: bool) -> None:
    if resource["state"] == "failed":
        error = resource["error"]
        text = error.get("message", error) if isinstance(error, dict) else error
        errors.print(f"error: {resource['id']}: {text}")
        raise typer.Exit(Exit.failed)
    for warning in resource.get("warnings") or ():
        errors.print(f"warning: {show.warning_text(warning)}")
    say(as_json, resource, resource["id"])
