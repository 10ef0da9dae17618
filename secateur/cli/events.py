"""Commands about what happened to a job: events, attempts, logs."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from secateur.cli import show
from secateur.cli.context import AsJson, JobId, client_of, output, print_json
from secateur.client import Client
from secateur.transport import Answer


def events(
    context: typer.Context,
    job: JobId,
    after: Annotated[int, typer.Option(help="Only those with a higher number.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a job, oldest first."""
    with client_of(context) as client:
        found = list(client.events(job, after))
    if as_json:
        print_json(found)
        return
    for each in found:
        said = " ".join(f"{name}={_plain(value)}" for name, value in each["data"].items() if value is not None)
        output.print(f"{each['seq']:>5} {show.moment(each['at'])} {each['type']:<16} {said}".rstrip())


def queue(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show how many jobs are started before this one, and what it waits for."""
    with client_of(context) as client:
        found = client.queue_place(job)
    if as_json:
        print_json(found)
        return
    if found["position"] is None:
        output.print(f"{found['job']} is {found['state']}; it does not wait in the queue")
        return
    output.print(f"position {found['position']}, {found['ahead']} ahead")
    for each in found["waits_for"]:
        output.print(f"waits for {each['code']} {_of_wait(each)}".rstrip())


def _of_wait(wait: Answer) -> str:
    if needs := wait.get("needs"):
        gpu = f"{show.size(needs['device_bytes'])} of a GPU and {show.size(needs['host_bytes'])} beside it"
        return f"that no worker has: {gpu}, or {show.size(needs['memory_bytes'])} without one"
    return wait["id"] or (show.moment(wait["until"]) if wait["until"] else "")


def attempts(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show which workers tried a job, and how each attempt ended."""
    with client_of(context) as client:
        found = list(client.attempts(job))
    if as_json:
        print_json(found)
        return
    table = show.table(">attempt", "worker", "device", "started", "ended", "outcome", "~error")
    for each in found:
        ended = "–" if each["ended_at"] is None else show.moment(each["ended_at"])
        error = (each["error"] or {}).get("message", "")
        engine = each.get("engine") or {}
        device = (engine.get("fingerprint") or {}).get("name") or engine.get("device", "–")
        place = (str(each["number"]), each["worker"], device, show.moment(each["started_at"]), ended)
        table.add_row(*place, each["outcome"] or "–", error)
    show.print_table(output, table)


def logs(
    context: typer.Context,
    job: JobId,
    tail: Annotated[int | None, typer.Option(help="Only the last so many lines.", min=1)] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with further lines until the job has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a job's engine printed; paths of the worker are hidden."""
    if follow and as_json:
        raise typer.BadParameter("--json is one whole answer; leave out --follow")
    with client_of(context) as client:
        if as_json:
            print_json(list(_lines(client, job, tail)))
            return
        last = 0
        for line in _lines(client, job, tail):
            last = _print(line)
        for line in client.stream_logs(job, last) if follow else ():
            _print(line)


def _lines(client: Client, job: str, tail: int | None) -> Iterable[Answer]:
    return client.logs(job) if tail is None else client.last_logs(job, tail)


def _print(line: Answer) -> int:
    """Print a line; its number."""
    place = f"{show.moment(line['at'])} {line['attempt']:>2} {line['level']:<7}"
    output.print(f"{place} {line['message']}")
    return int(line["seq"])


def _plain(value: Any) -> str:
    """Words as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
