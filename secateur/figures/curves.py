"""Lines: what became of the blocks by depth, and what sparsity costs."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from secateur.figures.style import Record, canvas, empty, known, mean, styled


@styled
def by_depth(rows: Iterable[Record]) -> Figure:
    """Sparsity, error on the text solved on and held out, and change of the mask, by block, a colour a stage.

    rows: `GET …/matrices`, with `lineage` for all stages. Errors are means over a block's matrices.
    """
    found = list(rows)
    if not found:
        return empty("no matrices were recorded")
    stages: dict[tuple[int, str], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        stages[row["lineage_stage"], row["domain"]][row["block"]].append(row)
    figure = canvas(7, 7)
    sparsity, errors, masks = figure.subplots(3, sharex=True)
    for number, ((stage, domain), blocks) in enumerate(sorted(stages.items())):
        colour, name = f"C{number % 10}", f"{stage} · {domain}"
        _line(sparsity, blocks, _sparsity, colour, label=name)
        _line(errors, blocks, _mean_of("relative_error"), colour)
        _line(errors, blocks, _mean_of("held_out_error"), colour, linestyle="--")
        _line(masks, blocks, _mean_of("mask_changed"), colour)
    sparsity.set(title="Sparsity")
    errors.set(title="Relative error: solid on the text solved on, dashed held out", ylim=(0, None))
    masks.set(title="Change of the mask against the stage before", xlabel="block", ylim=(0, None))
    if not known(row.get("mask_changed") for row in found):
        masks.text(
            0.5, 0.5, "a first stage has none before it", ha="center", transform=masks.transAxes, color="#555555"
        )
    for axes in (sparsity, masks):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    masks.xaxis.set_major_locator(MaxNLocator(integer=True))
    sparsity.legend(title="stage", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def perplexity_over_sparsity(results: Sequence[Record]) -> Figure:
    """What sparsity costs. results: one a model: `sparsity`, `mean_perplexity`, and where known
    `dense_mean_perplexity` and `name`, as in `result` of a job."""
    points = sorted(
        (
            (float(each["sparsity"]), float(each["mean_perplexity"]), str(each.get("name") or ""))
            for each in results
            if each.get("sparsity") is not None and each.get("mean_perplexity") is not None
        ),
    )
    if not points:
        return empty("no job has a sparsity and a perplexity")
    figure = canvas(6, 4)
    axes = figure.add_subplot()
    axes.plot([point[0] for point in points], [point[1] for point in points], marker="o", color="C0")
    for place, value, name in points:
        said = f"{value:.2f}" + (f"\n{name}" if name else "")
        axes.annotate(said, (place, value), xytext=(0, 7), textcoords="offset points", ha="center")
    dense = known(each.get("dense_mean_perplexity") for each in results)
    if dense:
        axes.axhline(min(dense), color="#555555", linestyle=":", label=f"dense {min(dense):.2f}")
        axes.legend(frameon=False, loc="upper left")
    axes.margins(x=0.12, y=0.2)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(title="Perplexity over sparsity", xlabel="sparsity", ylabel="mean perplexity over domains")
    return figure


def _line(
    axes: Axes, blocks: dict[int, list[Record]], figure: Callable[[list[Record]], float], colour: str, **more: Any
) -> None:
    numbers = sorted(blocks)
    axes.plot(numbers, [figure(blocks[number]) for number in numbers], color=colour, marker=".", **more)


def _sparsity(rows: list[Record]) -> float:
    return float(sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows))


def _mean_of(field: str) -> Callable[[list[Record]], float]:
    return lambda rows: mean(row.get(field) for row in rows)
