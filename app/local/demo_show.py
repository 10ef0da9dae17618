"""What the demo prints about its job."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from secateur.answers import EvaluationRead, ManifestRead, MatrixRead
from secateur.cli.show import evaluation_table, number, percent, size, table


def show_evaluation(console: Console, evaluation: EvaluationRead) -> None:
    """R, and what it says about forgetting."""
    console.print(evaluation_table(evaluation))
    bwt, log_bwt = number(evaluation["bwt"]), number(evaluation["log_bwt"], 4)
    console.print(f"BWT {bwt}, on log perplexity {log_bwt}; above zero means that earlier domains were forgotten")


def show_matrices(console: Console, matrices: Sequence[MatrixRead]) -> None:
    """Sparsity of every block after the last stage, two blocks a line."""
    blocks: dict[int, list[MatrixRead]] = defaultdict(list)
    for matrix in matrices:
        blocks[matrix["block"]].append(matrix)
    rows = [_block_row(block, blocks[block]) for block in sorted(blocks)]
    half = (len(rows) + 1) // 2
    columns = (">block", ">sparsity", ">error", ">held out", ">mask changed")
    found: Table = table(*columns, "  ", *columns)
    for left, right in zip(rows[:half], [*rows[half:], ("",) * len(columns)][:half], strict=True):
        found.add_row(*left, "", *right)
    console.print(found)
    weights = sum(matrix["weights"] for matrix in matrices)
    zeros = sum(matrix["zeros"] for matrix in matrices)
    console.print(f"{zeros:,} of {weights:,} prunable weights are zero: {percent(zeros / weights, 4)}")


def _block_row(block: int, matrices: Iterable[MatrixRead]) -> tuple[str, ...]:
    matrices = list(matrices)
    weights = sum(matrix["weights"] for matrix in matrices)
    zeros = sum(matrix["zeros"] for matrix in matrices)
    return (
        str(block),
        percent(zeros / weights, 2),
        number(_mean(matrices, "relative_error"), 4),
        number(_mean(matrices, "held_out_error"), 4),
        percent(_mean(matrices, "mask_changed"), 1),
    )


def _mean(matrices: Iterable[Mapping[str, Any]], field: str) -> float | None:
    known = [matrix[field] for matrix in matrices if matrix[field] is not None]
    return sum(known) / len(known) if known else None


def show_files(console: Console, manifest: ManifestRead, folder: str) -> None:
    """Sizes by part of the artifact."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for file in manifest["files"]:
        sizes[file["path"].partition("/")[0]].append(file["bytes"])
    for part, counts in sizes.items():
        console.print(f"  {part:<14}{len(counts):>3} files  {size(sum(counts)):>10}")
    console.print(f"  in {folder}, manifest {manifest['digest'][:16]}…")


def show_texts(console: Console, prompts: Sequence[str], dense: Sequence[str], pruned: Sequence[str]) -> None:
    """The same prompts, continued by both models."""
    found = Table(show_lines=True)
    for column in ("prompt", "dense", "pruned"):
        found.add_column(column, ratio=1, overflow="fold")
    for row in zip(prompts, dense, pruned, strict=True):
        found.add_row(*(text.strip() for text in row))
    console.print(found)
