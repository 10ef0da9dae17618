"""`lineage`: what a job continues, and what continues it."""

from collections import defaultdict
from typing import Final

import typer
from rich.console import Console
from rich.tree import Tree

from secateur.cli import show
from secateur.cli.context import AsJson, JobId, client_of, output, print_json
from secateur.transport import Answer

WIDE: Final = 100_000
"""Columns, so that no line is broken."""


def lineage(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show the tree of jobs that continue one another; `*` marks the way to this job."""
    with client_of(context) as client:
        found = client.lineage(job)
    if as_json:
        print_json(found)
        return
    Console(width=WIDE, highlight=False, markup=False).print(_tree(found), no_wrap=True)
    if found["total"] > len(found["jobs"]):
        output.print(f"… {found['total'] - len(found['jobs'])} more: secateur ls --lineage {found['root']}")


def _tree(found: Answer) -> Tree:
    """Parents come before their continuations, which are younger."""
    way = {each["id"] for each in found["path"]}
    children: dict[str | None, list[Answer]] = defaultdict(list)
    for each in found["jobs"]:
        children[each["continues"]].append(each)
    (root,) = children[None]
    tree = Tree(_line(root, way))
    pending = [(tree, root["id"])]
    while pending:
        branch, parent = pending.pop()
        pending += [(branch.add(_line(each, way)), each["id"]) for each in children[parent]]
    return tree


def _line(job: Answer, way: set[str]) -> str:
    domains = ", ".join(f"{job['first_stage'] + number}. {name}" for number, name in enumerate(job["domains"]))
    mark = "*" if job["id"] in way else " "
    return f"{mark} {job['id']}  {job['state']}  {domains}  {show.moment(job['created_at'])}"
