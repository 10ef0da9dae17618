"""`plan`: what a job would do, without running it."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.context import AsJson, client_of, errors, output, print_json
from secateur.cli.exits import Exit
from secateur.cli.spec import read_spec
from secateur.transport import Json


def plan(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(help="A job's JSON spec; `-` is standard input.")],
    as_json: AsJson = False,
    matrices: Annotated[bool, typer.Option("--matrices", help="One line a matrix as well.")] = False,
) -> None:
    """Show what a job would do: budget, overrides, what stays, estimates. Exit code 1: it could not run."""
    with client_of(context) as client:
        found = client.plan(read_spec(spec))
    if as_json:
        print_json(found)
    print_plan(found, matrices=matrices, quiet=as_json)


def list_plans(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="pending, ready or failed.")] = None,
    method: Annotated[str | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(help="So many of the newest.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the plans of the last day, newest first."""
    with client_of(context) as client:
        filters = {"state": state, "method": method, "model": model}
        found = list(islice(client.plans(**filters, limit=min(limit, 200)), limit))
    if as_json:
        print_json(found)
        return
    table = show.table("plan", "state", "method", "model", ">seconds", ">memory")
    for each in found:
        seconds = f"{each['seconds']:,.0f}" if each["seconds"] is not None else ""
        memory = show.size(each["memory_bytes"]) if each["memory_bytes"] is not None else ""
        table.add_row(each["id"], each["state"], each["method"], each["model"], seconds, memory)
    output.print(table)


def print_plan(found: Json, *, matrices: bool = False, quiet: bool = False) -> None:
    """A settled plan; raises Exit when it has failed. quiet: only why it has."""
    if found["error"] is None and not quiet:
        _print(found["result"], matrices)
        _print_time(found)
    if error := found["error"]:
        place = f" at {error['field']}" if error.get("field") else ""
        errors.print(f"error: {error['message']} ({error['code']}{place})")
        raise typer.Exit(Exit.failed)


def _print(result: Json, matrices: bool) -> None:
    for name, value in _lines(result):
        output.print(f"{name:<12}{value}")
    if matrices:
        table = show.table("matrix", ">sparsity", "pattern", "solver", "overrides")
        for entry in result["matched"]:
            target = show.percent(entry["target"], 2) + ("" if entry["settled"] else " (open)")
            table.add_row(entry["name"], target, entry["pattern"], entry["solver"], ", ".join(entry["overrides"]))
        output.print(table)


def _print_time(found: Json) -> None:
    """The time by finished jobs, and what jobs of the same spec took."""
    if by := found.get("calibrated"):
        spread = f"{by['low']:,.0f} to {by['high']:,.0f}"
        output.print(
            f"{'here':<12}about {by['seconds']:,.0f} s ({spread}) by {by['jobs']} finished jobs on {by['device']}"
        )
    for job in found.get("jobs") or ():
        output.print(f"{'taken':<12}{job['runtime_seconds']:,.0f} s by {job['id']} ({job['state']})")


def _lines(result: Json) -> Iterator[tuple[str, str]]:
    """Name and value of what matters about a plan."""
    yield "model", f"{result['architecture']}, {result['blocks']} blocks, {result['parameters']:,} parameters"
    yield "matched", f"{len(result['matched'])} matrices, {result['weights']:,} weights"
    yield "sparsity", f"{show.percent(result['sparsity'], 3)}: {result['zeros']:,} zeros ({result['allocation']})"
    for reason, count in _reasons(result).items():
        yield "skipped", f"{count} tensors: {reason}"
    for each in result["overrides"]:
        yield f"override {each['index']}", f"{each['says']} matches {each['matches']}, decides {each['decides']}"
    for each in result["overlaps"]:
        winners = ", ".join(f"{field}: {winner}" for field, winner in each["winners"].items())
        names = f"{each['matrices'][0]} and {len(each['matrices']) - 1} more"
        yield "overlap", f"overrides {', '.join(map(str, each['overrides']))} on {names}; {winners} wins"
    for warning in result.get("warnings") or ():
        yield "warning", show.warning_text(warning)
    estimates = result["estimates"]
    yield "memory", f"about {show.size(estimates['memory_bytes']['total'])}"
    yield "disk", f"about {show.size(estimates['disk_bytes']['total'])}"
    yield "time", f"about {estimates['seconds']['total']:,.0f} s on a machine like the service's CPU worker"


def _reasons(result: Json) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in result["skipped"]:
        counts[entry["reason"]] = counts.get(entry["reason"], 0) + 1
    return counts
