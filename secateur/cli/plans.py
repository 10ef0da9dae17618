"""`plan`: what a job would do, without running it."""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Final

import typer

from secateur.cli import show
from secateur.cli.context import AsJson, client_of, errors, output, print_json
from secateur.cli.exits import Exit
from secateur.cli.settings import Settings, apply
from secateur.cli.spec import read_spec
from secateur.transport import Answer

UNTRIED: Final = "computed from measured rates; no job of this method has finished here yet to hold that against"


def plan(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(help="A job's JSON spec; `-` is standard input.")],
    settings: Settings = None,
    as_json: AsJson = False,
    matrices: Annotated[bool, typer.Option("--matrices", help="One line a matrix as well.")] = False,
) -> None:
    """Show what a job would do: budget, overrides, what stays, estimates. Exit code 1: it could not run."""
    with client_of(context) as client:
        found = client.plan(apply(read_spec(spec), settings or []))
    print_plan(found, matrices=matrices, as_json=as_json)


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
    show.print_table(output, table)


def print_plan(found: Answer, *, matrices: bool = False, as_json: bool = False) -> None:
    """A settled plan; raises Exit when it has failed."""
    if as_json:
        print_json(found)
    elif found["error"] is None:
        if effort := found["spec"].get("effort"):
            output.print(f"{'effort':<12}{effort}")
        _print(found["result"], matrices)
        _print_time(found)
    if error := found["error"]:
        place = f" at {error['field']}" if error.get("field") else ""
        errors.print(f"error: {error['message']} ({error['code']}{place})")
        raise typer.Exit(Exit.failed)


def _print(result: Answer, matrices: bool) -> None:
    for name, value in _lines(result):
        output.print(f"{name:<12}{value}")
    if matrices:
        table = show.table("matrix", ">sparsity", "pattern", "solver", "~overrides")
        for entry in result["matched"]:
            target = show.percent(entry["target"], 2) + ("" if entry["settled"] else " (open)")
            table.add_row(entry["name"], target, entry["pattern"], entry["solver"], ", ".join(entry["overrides"]))
        show.print_table(output, table)


def _print_time(found: Answer) -> None:
    """The time by finished jobs first, then by measured rates, and what jobs of the same spec took."""
    if by := found.get("calibrated"):
        spread = f"{by['low']:,.0f} to {by['high']:,.0f} s"
        output.print(
            f"{'time':<12}{spread}, likely {by['seconds']:,.0f} s, by {by['jobs']} finished jobs on {by['kind']}"
        )
    for line in _by_rates(found["result"]["estimates"]):
        output.print(f"{'by rates' if by else 'time':<12}{line}")
    if not by:
        output.print(f"{'':<12}{UNTRIED}")
    for job in found.get("jobs") or ():
        output.print(f"{'taken':<12}{job['runtime_seconds']:,.0f} s by {job['id']} ({job['state']})")


def _lines(result: Answer) -> Iterator[tuple[str, str]]:
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
    if (artifact := estimates.get("artifact_bytes")) is not None:
        yield "artifact", f"about {show.size(artifact['total'])}"
    for each in estimates.get("workers") or ():
        if not each["fits"]:
            yield "no room", _on_worker(each)


def _by_rates(estimates: Answer) -> Iterator[str]:
    """What the job takes on each kind of worker that it fits on, the quickest first."""
    workers = [each for each in estimates.get("workers") or () if each["fits"]]
    if not estimates.get("workers"):
        yield f"about {estimates['seconds']['total']:,.0f} s on the machine that planned"
    for each in sorted(workers, key=lambda each: float(each["seconds"])):
        yield _on_worker(each)


def _on_worker(fit: Answer) -> str:
    """How long a job takes on a kind of worker, or what it lacks there."""
    who = f"{fit['workers']} × {fit['kind']}" if fit["workers"] else f"{fit['kind']} (no worker is known yet)"
    if not fit["fits"]:
        return f"on {who}: too little {', '.join(lack.replace('_', ' ') for lack in fit['lacks'])}"
    parts = sorted(fit["parts"].items(), key=lambda part: -part[1])[:3]
    return f"about {fit['seconds']:,.0f} s on {who}: " + ", ".join(f"{name} {size:,.0f}" for name, size in parts)


def _reasons(result: Answer) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in result["skipped"]:
        counts[entry["reason"]] = counts.get(entry["reason"], 0) + 1
    return counts
