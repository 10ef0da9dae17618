"""Commands about who may do what: projects, keys, hub tokens and the audit log."""

import sys
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.context import AsJson, client_of, errors, output, print_json, say
from secateur.cli.ids import completion, whole
from secateur.client import Client

projects = typer.Typer(help="Projects: for operators.", no_args_is_help=True)
keys = typer.Typer(help="API keys of a project.", no_args_is_help=True)
Project = Annotated[str | None, typer.Option("--project", help="prj_…; by default the key's own.")]
ProjectId = Annotated[
    str,
    typer.Argument(
        metavar="PROJECT",
        help="prj_…, or how it begins.",
        callback=whole("prj"),
        autocompletion=completion("prj"),
    ),
]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="key_…, as `ls` shows it.")]


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Say which project and key this is, and what it may do."""
    with client_of(context) as client:
        found = client.whoami()
    if as_json:
        print_json(found)
        return
    key = found["key"]
    table = show.table("project", "key", "name", "~scopes", "expires")
    table.add_row(
        found["project"]["name"], key["id"], key["name"], ",".join(key["scopes"]), _until(key["expires_at"])
    )
    show.print_table(output, table)


def audit(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="prj_…; for operators.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what this key did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, for example create_job.")] = None,
    object_id: Annotated[str | None, typer.Option("--object", help="Only what was done to this id.")] = None,
    count: Annotated[int, typer.Option("--tail", help="How many lines.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first."""
    filters = {"project": project, "key": key, "action": action, "object_id": object_id, "limit": min(count, 200)}
    with client_of(context) as client:
        found = [event for event, _ in zip(client.audit(**filters), range(count), strict=False)]
    if as_json:
        print_json(found)
        return
    table = show.table("at", "action", "object", "key", "outcome", ">times", "client")
    for each in found:
        place = (show.moment(each["at"]), each["action"], each["object_id"] or "–", each["key"] or "–")
        table.add_row(*place, each["outcome"], str(each["count"]), each["client"] or "–")
    show.print_table(output, table)


@projects.command("ls")
def list_projects(context: typer.Context, as_json: AsJson = False) -> None:
    """List projects, newest first."""
    with client_of(context) as client:
        found = list(client.projects.list())
    if as_json:
        print_json(found)
        return
    table = show.table("project", "name", "state", "created")
    for each in found:
        state = "disabled" if each["disabled"] else "enabled"
        table.add_row(each["id"], each["name"], state, show.moment(each["created_at"]))
    show.print_table(output, table)


@projects.command("add")
def add_project(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="No other has it.")],
    as_json: AsJson = False,
) -> None:
    """Make a project; prints its id."""
    with client_of(context) as client:
        found = client.projects.add(name)
    say(as_json, found, found["id"])


@projects.command("disable")
def disable_project(context: typer.Context, project: ProjectId, as_json: AsJson = False) -> None:
    """Let none of its keys work; its jobs go on."""
    with client_of(context) as client:
        found = client.projects.change(project, disabled=True)
    if as_json:
        print_json(found)


@projects.command("enable")
def enable_project(context: typer.Context, project: ProjectId, as_json: AsJson = False) -> None:
    """Let its keys work again."""
    with client_of(context) as client:
        found = client.projects.change(project, disabled=False)
    if as_json:
        print_json(found)


@projects.command("rm")
def remove_project(context: typer.Context, project: ProjectId, as_json: AsJson = False) -> None:
    """Delete an empty project with its keys."""
    with client_of(context) as client:
        client.projects.delete(project)
    if as_json:
        print_json({"deleted": [project]})


@projects.command("hub-token")
def put_hub_token(context: typer.Context, project: Project = None, as_json: AsJson = False) -> None:
    """Read a token of the hub from standard input, and fetch the project's models and datasets with it."""
    token = sys.stdin.readline().strip()
    with client_of(context) as client:
        found = client.projects.put_hub_token(_own(client, project), token)
    if as_json:
        print_json(found)
    else:
        errors.print(f"set, {found['hint']}")


@keys.command("ls")
def list_keys(context: typer.Context, project: Project = None, as_json: AsJson = False) -> None:
    """List keys, newest first."""
    with client_of(context) as client:
        found = list(client.projects.keys(_own(client, project)))
    if as_json:
        print_json(found)
        return
    table = show.table("key", "begins", "name", "state", "~scopes", "expires", "last used")
    for each in found:
        used = show.moment(each["last_used_at"]) if each["last_used_at"] else "never"
        place = (each["id"], each["hint"], each["name"], each["state"], ",".join(each["scopes"]))
        table.add_row(*place, _until(each["expires_at"]), used)
    show.print_table(output, table)


@keys.command("add")
def add_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="jobs:read, …; may be repeated.")],
    expires: Annotated[str | None, typer.Option(help="2027-01-31T00:00:00Z; by default never.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a key; prints its id and its secret, which is shown only now."""
    with client_of(context) as client:
        made = client.projects.add_key(_own(client, project), name, scope, expires_at=expires)
    say(as_json, made, f"{made['id']} {made['secret']}")


@keys.command("rotate")
def rotate_key(
    context: typer.Context,
    key: KeyId,
    grace: Annotated[int, typer.Option(help="Seconds that the old secret works yet.", min=0)] = 86_400,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a new secret and print it."""
    with client_of(context) as client:
        found = client.projects.rotate_key(_own(client, project), key, grace_seconds=grace)
    say(as_json, found, found["secret"])


@keys.command("rm")
def revoke_key(context: typer.Context, key: KeyId, project: Project = None, as_json: AsJson = False) -> None:
    """Revoke a key, at once and for good."""
    with client_of(context) as client:
        client.projects.revoke_key(_own(client, project), key)
    if as_json:
        print_json({"deleted": [key]})


def _own(client: Client, project: str | None) -> str:
    return project or str(client.whoami()["project"]["id"])


def _until(moment: str | None) -> str:
    return show.moment(moment) if moment else "never"
