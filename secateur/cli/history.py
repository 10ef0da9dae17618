"""Commands about what jobs did to a model: matrices, sensitivity, compare."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from secateur.cli.context import AsJson, JobId, client_of, output, print_json
from secateur.cli.ids import completion, whole
from secateur.cli.show import number, percent, print_table, table
from secateur.transport import Answer

OtherJob = Annotated[
    str,
    typer.Argument(
        metavar="OTHER", help="job_…, or how it begins.", callback=whole("job"), autocompletion=completion("job")
    ),
]
Stage = Annotated[int | None, typer.Option(help="One stage.", min=0)]
Domain = Annotated[str | None, typer.Option(help="One domain.")]
Block = Annotated[int | None, typer.Option(help="One block.", min=0)]
MatrixName = Annotated[str | None, typer.Option(help="A matrix's name, or a glob such as '*.down_proj.*'.")]
WholeLineage = Annotated[bool, typer.Option("--lineage", help="Also the stages of the jobs before.")]


def matrices(
    context: typer.Context,
    job: JobId,
    stage: Stage = None,
    domain: Domain = None,
    block: Block = None,
    matrix: MatrixName = None,
    lineage: WholeLineage = False,
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
    print_table(output, found)


def sensitivity(
    context: typer.Context,
    job: JobId,
    parquet: Annotated[
        Path | None, typer.Option(help="Write records and sensitivities into this Parquet file instead.")
    ] = None,
    stage: Stage = None,
    domain: Domain = None,
    block: Block = None,
    matrix: MatrixName = None,
    lineage: WholeLineage = False,
    basis: Annotated[
        str | None,
        typer.Option(
            help="domain: scores by each stage's own domain alone (default). accumulated: by all so far."
        ),
    ] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="Add the matrices of each block up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how important each matrix's weights were to each domain (or to all so far), or export it."""
    if parquet is not None and (blocks or as_json):
        raise typer.BadParameter("--parquet writes whole records; leave out --blocks and --json")
    filters: dict[str, object] = {"stage": stage, "domain": domain, "block": block, "matrix": matrix}
    filters |= {"lineage": lineage or None, "basis": basis}
    with client_of(context) as client:
        if parquet is not None:
            client.export_history(job, parquet, **filters)
            output.print(f"{parquet}: {parquet.stat().st_size:,} bytes")
            return
        read = client.block_sensitivity if blocks else client.sensitivity
        rows = list(read(job, **filters))
    if as_json:
        print_json(rows)
    else:
        print_table(output, _block_table(rows) if blocks else _matrix_table(rows))


def compare(
    context: typer.Context,
    job: JobId,
    other: OtherJob,
    part: Annotated[str | None, typer.Option(help="evaluation or history alone.")] = None,
    stage: Annotated[int | None, typer.Option(help="Stage of the first job; else its last.", min=0)] = None,
    other_stage: Annotated[int | None, typer.Option(help="Stage of the other; else its last.", min=0)] = None,
    matrix: MatrixName = None,
    as_json: AsJson = False,
) -> None:
    """Set two jobs side by side: perplexities under one protocol, and what became of each matrix."""
    filters = {"stage": stage, "other_stage": other_stage, "matrix": matrix}
    with client_of(context) as client:
        found = client.compare(job, other, part=part, **filters)
    if as_json:
        print_json(found)
        return
    if found["evaluation"] is not None:
        _print_evaluation(found["evaluation"])
    if found["history"] is not None:
        _print_history(found["history"])


def _matrix_table(rows: Iterable[Answer]) -> Table:
    found = table(">stage", "domain", ">block", "matrix", ">mean", ">median", ">share")
    for row in rows:
        figures = (_short(row["mean"]), _short(row["quantiles"].get("0.5")), percent(row["share"], 3))
        place = (str(row["lineage_stage"]), row["domain"], str(row["block"]), row["matrix"])
        found.add_row(*place, *figures)
    return found


def _block_table(rows: Iterable[Answer]) -> Table:
    found = table(">stage", "domain", ">block", ">matrices", ">mean", ">share")
    for row in rows:
        place = (str(row["lineage_stage"]), row["domain"], str(row["block"]), str(row["matrices"]))
        found.add_row(*place, _short(row["mean"]), percent(row["share"], 3))
    return found


def _print_evaluation(evaluation: Answer) -> None:
    domains = evaluation["domains"]
    found = table("perplexity after", *(f">{domain}" for domain in domains))
    for row in evaluation["rows"]:
        names = dict.fromkeys(name or "(dense)" for name in (row["after"], row["other_after"]))
        cells = (_pair(row["perplexity"][domain]) for domain in domains)
        found.add_row(" | ".join(names), *cells)
    print_table(output, found)
    mean, bwt = evaluation["mean_perplexity"], evaluation["bwt"]
    output.print(f"mean perplexity {_pair(mean)} · BWT {_pair(bwt)}")


def _print_history(history: Answer) -> None:
    sides = (history["job"], history["other"])
    output.print(" against ".join(f"stage {side['stage']} ({side['domain']})" for side in sides))
    found = table("matrix", ">sparsity", ">error", ">share", "mask", "weights")
    for row in history["matrices"]["data"]:
        figures = (
            _pair(row["sparsity"], 3),
            _pair(row["relative_error"], 4),
            _pair(row["sensitivity_share"], 4),
        )
        found.add_row(row["matrix"], *figures, _same(row["same_mask"]), _same(row["same_weights"]))
    print_table(output, found)
    agreement = history["agreement"]
    output.print(
        f"{agreement['matrices']} matrices: {agreement['same_masks']} with the same mask, "
        f"{agreement['same_weights']} with the same weights"
    )


def _pair(two: Answer, digits: int = 2) -> str:
    return f"{number(two['job'], digits)} → {number(two['other'], digits)}"


def _same(value: bool | None) -> str:
    return {True: "same", False: "other", None: "–"}[value]


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
