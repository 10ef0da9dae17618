"""Maps over the blocks: where sensitivity lies, and where the allocation took weights from."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from secateur.figures.style import GAIN, NOTHING, SHARE, Record, canvas, empty, known, styled, whole_ticks

LEAST_SPREAD: Final = 0.01
"""Differences of sparsity below this are not made to look large."""


@styled
def sensitivity_by_block(rows: Iterable[Record]) -> Figure:
    """Which blocks each domain needs. rows: `GET …/sensitivity/blocks`, one a stage and block."""
    found = list(rows)
    if not found:
        return empty("no sensitivities were recorded")
    names = {row["lineage_stage"]: f"{row['lineage_stage']} · {row['domain']}" for row in found}
    stages, blocks = sorted(names), sorted({row["block"] for row in found})
    values = {(row["lineage_stage"], row["block"]): row["share"] for row in found}
    return _map(
        [[values.get((stage, block)) for block in blocks] for stage in stages],
        [names[stage] for stage in stages],
        blocks,
        title="Sensitivity by block and domain",
        unit="share of the stage's",
    )


@styled
def sensitivity_by_matrix(rows: Iterable[Record]) -> Figure:
    """Which matrices the newest stage's domain needs. rows: `GET …/sensitivity`, one a matrix and stage."""
    last = newest(rows)
    if not last:
        return empty("no sensitivities were recorded")
    values, kinds, blocks = _by_kind(last, "share")
    return _map(
        values, kinds, blocks, title=f"Sensitivity by matrix, to {last[0]['domain']}", unit="share of the stage's"
    )


@styled
def allocation(rows: Iterable[Record]) -> Figure:
    """Where the newest stage took weights from: each matrix's sparsity against the whole model's.

    rows: `GET …/matrices`.
    """
    last = newest(rows)
    if not last:
        return empty("no matrices were recorded")
    whole = sum(row["zeros"] for row in last) / sum(row["weights"] for row in last)
    differences = [{**row, "difference": row["sparsity"] - whole} for row in last]
    values, kinds, blocks = _by_kind(differences, "difference")
    return _map(
        values,
        kinds,
        blocks,
        title=f"Sparsity against the model's {whole:.1%}, after {last[0]['domain']}",
        unit="more kept ← 0 → more removed",
        middle=True,
    )


def newest(rows: Iterable[Record]) -> list[Record]:
    """The records of the last stage there is."""
    found = list(rows)
    last = max((row["lineage_stage"] for row in found), default=None)
    return [row for row in found if row["lineage_stage"] == last]


def kind_of(matrix: str, block: int) -> str:
    """What a matrix is called in every block: `self_attn.q_proj` of `model.layers.3.self_attn.q_proj.weight`."""
    before, found, inside = matrix.partition(f".{block}.")
    return re.sub(r"\.weight$", "", inside if found else before)


def _by_kind(rows: Sequence[Record], field: str) -> tuple[list[list[Any]], list[str], list[int]]:
    kinds = list(dict.fromkeys(kind_of(row["matrix"], row["block"]) for row in rows))
    blocks = sorted({row["block"] for row in rows})
    values = {(kind_of(row["matrix"], row["block"]), row["block"]): row[field] for row in rows}
    return [[values.get((kind, block)) for block in blocks] for kind in kinds], kinds, blocks


def _map(
    values: Sequence[Sequence[Any]],
    names: Sequence[str],
    blocks: Sequence[int],
    *,
    title: str,
    unit: str,
    middle: bool = False,
) -> Figure:
    """values: (names, blocks), null where there is none. middle: colours tell which side of 0."""
    letters = max(map(len, names))
    figure = canvas(2.2 + 0.075 * letters + 0.24 * len(blocks), 1.3 + 0.26 * len(names))
    axes = figure.add_subplot()
    norm = None
    if middle:
        spread = max(LEAST_SPREAD, *(abs(value) for row in values for value in known(row)))
        norm = TwoSlopeNorm(0, -spread, spread)
    colours = colormaps[GAIN if middle else SHARE].with_extremes(bad=NOTHING)
    numbers = [[float("nan") if value is None else float(value) for value in row] for row in values]
    drawn = axes.imshow(numbers, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    whole_ticks(axes, blocks)
    axes.set_xlabel("block")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, label=unit, pad=0.02)
    return figure
