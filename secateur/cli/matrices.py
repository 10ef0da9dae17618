"""The command about each matrix's record: matrices."""

from typing import Annotated

import typer

from secateur.cli.context import AsJson, JobId, client_of, output, print_json
from secateur.cli.history import PrunableWeight
from secateur.cli.show import number, percent, table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(matrices)


def matrices(
    context: typer.Context,
    job: JobId,
    stage: Annotated[int | None, typer.Option(help="One stage.", min=0)] = None,
    domain: Annotated[str | None, typer.Option(help="One domain.")] = None,
    block: Annotated[int | None, typer.Option(help="One block.", min=0)] = None,
    matrix: PrunableWeight = None,
    lineage: Annotated[bool, typer.Option("--lineage", help="Also the stages of the jobs before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened to each matrix: sparsity, solver, errors, and how much of its mask stayed."""
    filters = {"stage": stage, "domain": domain, "block": block, "matrix": matrix, "lineage": lineage or None}
    with client_of(context) as client:
        rows = list(client.matrices(job, **filters))
    if as_json:
        print_json(rows)
        return
    found = table(">stage", "domain", ">block", "matrix", ">sparsity", "solver", ">error", ">held out", ">overlap")
    for row in rows:
        place = (str(row["lineage_stage"]), row["domain"], str(row["block"]), row["matrix"])
        errors = (number(row["relative_error"], 4), number(row["held_out_error"], 4))
        found.add_row(*place, percent(row["sparsity"], 1), row["solver"], *errors, percent(row["mask_overlap"], 1))
    output.print(found)
