"""What models are worth: the matrix R, and two jobs side by side."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from secateur.figures.style import FORGET, NOTHING, Record, canvas, empty, known, styled

Numbers = Sequence[Sequence[float]]


@styled
def perplexity_matrix(evaluation: Record) -> Figure:
    """R: the perplexity of every domain after every stage, coloured by its ratio to the dense model's.

    evaluation: `GET …/evaluation`, with `domains`, `rows`, `bwt` and `log_bwt`.
    """
    domains, rows = list(evaluation["domains"]), list(evaluation["rows"])
    if not domains or not rows:
        return empty("no domain was evaluated")
    dense = next((row["perplexity"] or {} for row in rows if row["row"] == 0), {})
    values = [[(row["perplexity"] or {}).get(domain) for domain in domains] for row in rows]
    ratios = [
        [_log_ratio(value, dense.get(domain)) for value, domain in zip(row, domains, strict=True)]
        for row in values
    ]
    names = ["dense" if row["row"] == 0 else f"after {row['after']}" for row in rows]
    letters = max(map(len, names)) + max(map(len, domains)) / 3
    figure = canvas(2.4 + 0.075 * letters + 0.95 * len(domains), 1.6 + 0.4 * len(rows))
    axes = figure.add_subplot()
    colours = colormaps[FORGET].with_extremes(bad=NOTHING)
    most = max((ratio for row in ratios for ratio in row if not math.isnan(ratio)), default=0.0)
    drawn = axes.imshow(ratios, aspect="auto", cmap=colours, norm=Normalize(0, max(most, 0.01)))
    _cells(axes, values, ratios, max(most, 0.01))
    axes.set_xticks(range(len(domains)), domains, rotation=0 if sum(map(len, domains)) < 12 * len(domains) else 20)
    axes.set_yticks(range(len(rows)), names)
    if rows[0]["row"] == 0 and len(rows) > 1:
        axes.axhline(0.5, color="black", linewidth=1.5)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"Perplexity by domain\nBWT {_said(evaluation.get('bwt'))} · log BWT {_said(evaluation.get('log_bwt'), 4)}"
    )
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, label="of the dense model's")
    ticks = bar.get_ticks()
    shown = [tick for tick in ticks if 0 <= tick <= max(most, 0.01) + 1e-9]
    bar.set_ticks(shown, labels=[f"{math.exp(tick):.2f} ×" for tick in shown])
    return figure


@styled
def comparison(compared: Record) -> Figure:
    """Two jobs: perplexities by domain after their last stages, and the error of each matrix in both.

    compared: `GET …/compare/…`, of which either part may be null.
    """
    evaluation, history = compared.get("evaluation"), compared.get("history")
    last = _last_row(evaluation)
    pairs = _errors(history)
    if last is None and not pairs:
        return empty("the two jobs have nothing measured alike")
    figure = canvas(9, 4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = (str(compared.get("job", "job")), str(compared.get("other", "other")))
    if last is None:
        _no(left, "no domain is evaluated by both\nunder one protocol")
    else:
        _bars(left, last, names)
    if not pairs:
        _no(right, "no matrix has an error in both")
    else:
        _scatter(right, pairs, names)
    return figure


def _cells(axes: Axes, values: Sequence[Sequence[Any]], ratios: Numbers, most: float) -> None:
    for row, (numbers, shades) in enumerate(zip(values, ratios, strict=True)):
        for column, (value, shade) in enumerate(zip(numbers, shades, strict=True)):
            dark = not math.isnan(shade) and shade > 0.6 * most
            axes.text(column, row, _said(value), ha="center", va="center", color="white" if dark else "black")


def _log_ratio(value: float | None, dense: float | None) -> float:
    return math.nan if not value or not dense else math.log(value / dense)


def _said(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _last_row(evaluation: Record | None) -> Record | None:
    """The last row in which both have a figure; by domain, the two figures."""
    found = None
    for row in (evaluation or {}).get("rows", ()):
        both = {
            domain: two
            for domain, two in row["perplexity"].items()
            if two["job"] is not None and two["other"] is not None
        }
        if row["row"] > 0 and both:
            found = both
    return found


def _errors(history: Record | None) -> list[tuple[float, float]]:
    rows = history["matrices"]["data"] if history else ()
    errors = (known((row["relative_error"]["job"], row["relative_error"]["other"])) for row in rows)
    return [(both[0], both[1]) for both in errors if len(both) == 2]


def _bars(axes: Axes, last: Record, names: tuple[str, str]) -> None:
    for offset, side, name in ((-0.2, "job", names[0]), (0.2, "other", names[1])):
        heights = [two[side] for two in last.values()]
        bars = axes.bar([number + offset for number in range(len(last))], heights, 0.38, label=_short(name))
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(last)), list(last))
    axes.set(title="Perplexity after the last common stage")
    axes.margins(y=0.25)
    axes.legend(frameon=False, loc="upper right")


def _scatter(axes: Axes, pairs: list[tuple[float, float]], names: tuple[str, str]) -> None:
    axes.scatter([one for one, _ in pairs], [other for _, other in pairs], s=10, alpha=0.7)
    most = max(max(pair) for pair in pairs) * 1.05 or 1.0
    axes.plot([0, most], [0, most], color="#555555", linestyle=":")
    better = sum(one < other for one, other in pairs)
    axes.set(
        title=f"Relative error of {len(pairs)} matrices",
        xlabel=f"{_short(names[0])} (less in {better})",
        ylabel=_short(names[1]),
        xlim=(0, most),
        ylim=(0, most),
    )


def _no(axes: Axes, words: str) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", color="#555555", transform=axes.transAxes)


def _short(id: str) -> str:
    """An id's beginning and end, by which two of one minute differ."""
    return id if len(id) < 20 else f"{id[:10]}…{id[-4:]}"
