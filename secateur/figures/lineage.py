"""The tree of jobs that continue one another."""

from collections import defaultdict
from typing import Final

from matplotlib.figure import Figure

from secateur.figures.style import Record, canvas, empty, styled

COLOURS: Final = {"succeeded": "#2a7f3f", "failed": "#b3261e", "cancelled": "#777777"}
AT_WORK: Final = "#1f5fa8"


@styled
def lineage_tree(lineage: Record) -> Figure:
    """Each job at the stage it begins with, and what continues it to its right; the way to this job is bold.

    lineage: `GET …/lineage`, with `jobs` and `path`.
    """
    jobs = list(lineage["jobs"])
    if not jobs:
        return empty("there is no job")
    way = {each["id"] for each in lineage.get("path", ())}
    children: dict[str | None, list[Record]] = defaultdict(list)
    ids = {each["id"] for each in jobs}
    for each in jobs:
        children[each["continues"] if each["continues"] in ids else None].append(each)
    rows = _rows(children)
    depths = _depths(jobs)
    figure = canvas(2.0 + 2.4 * (max(depths.values()) + 1), 0.9 + 0.55 * len(jobs))
    axes = figure.add_subplot()
    axes.axis("off")
    for each in jobs:
        bold = each["id"] in way
        x, y = depths[each["id"]], -rows[each["id"]]
        parent = each["continues"]
        if parent in ids:
            before = (depths[parent], -rows[parent])
            axes.plot(
                [before[0], before[0] + 0.5, before[0] + 0.5, x],
                [before[1], before[1], y, y],
                color="black" if bold else "#bbbbbb",
                linewidth=2 if bold else 1,
                zorder=2 if bold else 1,
            )
        axes.scatter([x], [y], s=70, color=COLOURS.get(each["state"], AT_WORK), zorder=3)
        stages = ", ".join(f"{each['first_stage'] + number} {name}" for number, name in enumerate(each["domains"]))
        axes.annotate(
            f"{stages}\n{each['id'][:12]}…{each['id'][-4:]} · {each['state']}",
            (x, y),
            xytext=(8, 4),
            textcoords="offset points",
            fontsize=7,
            fontweight="bold" if bold else "normal",
        )
    axes.set(xlim=(-0.2, max(depths.values()) + 1), ylim=(-len(jobs) + 0.4, 0.8))
    axes.set_title("Lineage: each job with the stages it adds")
    return figure


def _rows(children: dict[str | None, list[Record]]) -> dict[str, int]:
    """A line for each job: a parent above its continuations, these in the order they were made."""
    rows: dict[str, int] = {}
    pending = list(reversed(children[None]))
    while pending:
        each = pending.pop()
        rows[each["id"]] = len(rows)
        pending += reversed(children[each["id"]])
    return rows


def _depths(jobs: list[Record]) -> dict[str, int]:
    """How many jobs are before each; parents come first in the list."""
    depths: dict[str, int] = {}
    for each in jobs:
        depths[each["id"]] = depths.get(each["continues"], -1) + 1
    return depths
