"""Commands about webhooks: who is told of the project's jobs."""

from typing import Annotated

import typer

from secateur.answers import WebhookRead
from secateur.cli import show
from secateur.cli.context import AsJson, client_of, errors, output, print_json, say
from secateur.cli.ids import completion, whole
from secateur.cli.spec import parse_labels

webhooks = typer.Typer(help="Who is told of the project's jobs.", no_args_is_help=True)
WebhookId = Annotated[
    str,
    typer.Argument(
        metavar="WEBHOOK",
        help="whk_…, or how it begins.",
        callback=whole("whk"),
        autocompletion=completion("whk"),
    ),
]


@webhooks.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="https://…: where messages are posted to.")],
    event: Annotated[list[str] | None, typer.Option(help="Only this type of event; may be repeated.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only if the job is then in this state; may be repeated.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only jobs with KEY=VALUE; may be repeated.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a webhook; prints its id and its secret, which is shown only now."""
    labels = parse_labels(label or ())
    with client_of(context) as client:
        found = client.webhooks.add(
            url, events=event or None, states=state or None, labels=labels, description=description
        )
    say(as_json, found, f"{found['id']} {found['secret']}")


@webhooks.command("ls")
def list_webhooks(context: typer.Context, as_json: AsJson = False) -> None:
    """List webhooks, newest first."""
    with client_of(context) as client:
        found = list(client.webhooks.list())
    if as_json:
        print_json(found)
        return
    table = show.table("webhook", "~works", "~events", "~states", "~url", "~description")
    for each in found:
        told = ("all" if names is None else ",".join(names) for names in (each["events"], each["states"]))
        table.add_row(each["id"], _health(each), *told, each["url"], each["description"])
    show.print_table(output, table)


@webhooks.command("rm")
def remove_webhook(context: typer.Context, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Delete a webhook with its deliveries."""
    with client_of(context) as client:
        client.webhooks.delete(webhook)
    if as_json:
        print_json({"deleted": [webhook]})


@webhooks.command("rotate")
def rotate_webhook(
    context: typer.Context,
    webhook: WebhookId,
    keep_hours: Annotated[float, typer.Option(help="For so long the old secret signs, too.", min=0, max=168)] = 24,
    as_json: AsJson = False,
) -> None:
    """Make a new secret and print it."""
    with client_of(context) as client:
        found = client.webhooks.rotate(webhook, keep_hours=keep_hours)
    say(as_json, found, found["secret"])


@webhooks.command("enable")
def enable_webhook(context: typer.Context, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send to it again."""
    with client_of(context) as client:
        found = client.webhooks.change(webhook, enabled=True)
    if as_json:
        print_json(found)


@webhooks.command("test")
def ping_webhook(context: typer.Context, webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send a ping; `deliveries` tells what came of it."""
    with client_of(context) as client:
        found = client.webhooks.test(webhook)
    say(as_json, found, found["id"])


@webhooks.command("deliveries")
def list_deliveries(
    context: typer.Context,
    webhook: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only those: pending, succeeded, failed or skipped.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was sent to a webhook, newest first."""
    with client_of(context) as client:
        found = list(client.webhooks.deliveries(webhook, state=state))
    if as_json:
        print_json(found)
        return
    table = show.table("delivery", "state", ">attempts", "~answer", "at", "type", "job")
    for each in found:
        last = each["last_attempt"]
        answer = "–" if last is None else last.get("status") or last.get("error") or "–"
        place = (each["id"], each["state"], str(each["attempts"]), str(answer), show.moment(each["created_at"]))
        table.add_row(*place, each["type"], each["job"] or "–")
    show.print_table(output, table)


@webhooks.command("redeliver")
def redeliver(
    context: typer.Context,
    webhook: WebhookId,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="msg_…, as `deliveries` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Send a delivery again."""
    with client_of(context) as client:
        found = client.webhooks.redeliver(webhook, delivery)
    if as_json:
        print_json(found)
    else:
        errors.print(found["state"])


def _health(webhook: WebhookRead) -> str:
    if not webhook["enabled"]:
        return f"disabled: {webhook['disabled_reason'] or 'by its owner'}"
    return "yes" if webhook["failing_since"] is None else f"fails since {show.moment(webhook['failing_since'])}"
