"""What a job's gate asks for and what was measured, for people and for the steps of GitHub Actions."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from secateur.cli.show import evaluation_table, number, print_table, table
from secateur.client import Client
from secateur.transport import Answer

DIGITS: Final = 4
MISSING: Final = (
    "--gate holds the result to a gate, and the spec has none: give --max-mean-perplexity, --max-bwt or "
    "--max-log-bwt, or `gate` in the spec"
)
SUMMARY: Final = "GITHUB_STEP_SUMMARY"
OUTPUT: Final = "GITHUB_OUTPUT"
"""Variables of GitHub Actions: the files that take a step's summary (Markdown) and its outputs (`name=value`)."""


class Verdict(NamedTuple):
    """One limit of the gate, and whether the result keeps it."""

    limit: str
    words: str
    most: float
    measured: float | None
    kept: bool


def require_gate(client: Client, body: Answer) -> None:
    """Refuse a spec without a gate before anything is begun; a continuation may have its parent's."""
    gate = body.get("gate")
    if gate is None and "gate" not in body and body.get("continues") is not None:
        gate = client.job(body["continues"])["spec"].get("gate")
    if not gate:
        raise typer.BadParameter(MISSING)


def verdicts(job: Answer) -> list[Verdict]:
    """Of each limit; one that could not be measured is not kept."""
    from secateur.spec.gate import MEASURED, missed  # only here: pydantic's import would slow down every command

    gate, result = job["spec"].get("gate") or {}, job.get("result")
    measured: Mapping[str, float | None] = {field: (result or {}).get(field) for _, field in MEASURED.values()}
    stages = job.get("first_stage", 0) + len(job["spec"]["domains"])
    broken = missed(gate, measured, stages) if result is not None else gate
    return [
        Verdict(name, words, gate[name], measured[field], name not in broken)
        for name, (words, field) in MEASURED.items()
        if gate.get(name) is not None
    ]


def announce(job: Answer) -> None:
    """The job's id as an output of the step, at once: whoever cancels the step can cancel the job."""
    _output(job=job["id"])


def report(client: Client, job: Answer, console: Console) -> None:
    """Print each limit with what was measured; in GitHub Actions also write summary and outputs of the step."""
    found = verdicts(job)
    print_table(console, _table(found))
    kept = job["state"] == "succeeded" and all(each.kept for each in found)
    _output(state=job["state"], gate="kept" if kept else "missed")
    if path := os.environ.get(SUMMARY):
        evaluation = client.evaluation(job["id"]) if job.get("result") else None
        _append(path, "\n".join(_summary(job, found, kept, evaluation)) + "\n")


def _table(found: list[Verdict]) -> Table:
    shown = table("limit", ">at most", ">measured", "kept")
    for each in found:
        shown.add_row(each.limit, f"{each.most:g}", number(each.measured, DIGITS), "yes" if each.kept else "NO")
    return shown


def _summary(job: Answer, found: list[Verdict], kept: bool, evaluation: Answer | None) -> Iterator[str]:
    yield f"### `{job['id']}` {'keeps' if kept else 'does not keep'} its gate ({job['state']})"
    yield ""
    yield "| limit | at most | measured | kept |"
    yield "|---|--:|--:|---|"
    for each in found:
        cells = (f"{each.words} (`{each.limit}`)", f"{each.most:g}", number(each.measured, DIGITS))
        yield f"| {' | '.join(cells)} | {'yes' if each.kept else '**no**'} |"
    if message := (job.get("failure") or {}).get("message"):
        yield from ("", _plain(str(message)))
    if evaluation is not None and evaluation["domains"]:
        yield ""
        yield from _markdown(evaluation_table(evaluation))


def _markdown(shown: Table) -> Iterator[str]:
    columns = [[_plain(str(cell)) for cell in (each.header, *each.cells)] for each in shown.columns]
    head, *rows = zip(*columns, strict=True)
    for line in (head, ["---", *("--:" for _ in columns[1:])], *rows):
        yield f"| {' | '.join(line)} |"


def _plain(text: str) -> str:
    """Within a line and a cell of Markdown, whatever somebody has named: nothing of it is markup."""
    escaped = "".join(f"\\{sign}" if sign in r"\`*_{}[]()<>#+!|~" else sign for sign in text)
    return " ".join(escaped.split())


def _output(**values: str) -> None:
    if path := os.environ.get(OUTPUT):
        _append(path, "".join(f"{name}={value}\n" for name, value in values.items()))


def _append(path: str, text: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(text)
