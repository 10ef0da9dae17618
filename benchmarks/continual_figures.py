"""From perplexities after every stage to R, backward transfer, and whether the goals are reached."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.continual_rows import DOMAINS, HEADLINE, JOINT, ORDERS, Row
from secateur.spec.metrics import figures

COLUMNS = tuple(DOMAINS.values())
MEAN_OVER_JOINT, WORST_OVER_JOINT, ABSOLUTE = 1.01, 1.02, 58.0
OVER_WANDA, OF_RESTART = 1.005, 1 / 3


def summarise(row: Row, perplexities: list[dict[str, float]], made: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table. perplexities, made: one a stage (see `Stages.figures`), of all or of the last."""
    matrix = [[stage[name] for name in COLUMNS] for stage in perplexities]
    domains = row.domains[-len(matrix) :]
    entries = {(n, name): stage[name] for n, stage in enumerate(perplexities, start=1) for name in COLUMNS}
    found = figures(domains, entries)
    return {
        "stages": domains,
        "R": matrix,
        "final": perplexities[-1],
        "mean": found.mean_perplexity,
        "bwt": found.bwt,
        "log_bwt": found.log_bwt,
        "sparsity": made[-1]["sparsity"],
        "seconds": sum(stage["seconds"] for stage in made),
        "jobs": max(stage.get("jobs", 1) for stage in made),
        "state_bytes": made[-1]["state_bytes"],
        "peak_rss_bytes": max(stage["peak_rss_bytes"] for stage in made),
    }


@dataclass(frozen=True)
class Goal:
    """limit: the value must not be above it, or must be below it where `strict`."""

    name: str
    value: float
    limit: float
    orders: int
    strict: bool = False

    @property
    def reached(self) -> bool:
        return self.value < self.limit if self.strict else self.value <= self.limit

    @property
    def line(self) -> str:
        sign = "<" if self.strict else "≤"
        verdict = "reached" if self.reached else "missed"
        return f"| {self.name} | {self.value:.4g} | {sign} {self.limit:.4g} | {self.orders} | {verdict} |"


Found = Mapping[str, dict[str, Any]]
"""Summaries by the rows' names."""


def goals(found: Found) -> list[Goal]:
    """Those that can be said from the rows found. Means are over the orders found, at the most all six; two
    settings are compared where they have the same ones."""
    return [*_ceilings(found), *_selection(found), *_protection(found)]


def _ceilings(found: Found) -> Iterator[Goal]:
    """How close to calibrating on all texts at once, and how good in absolute terms."""
    for name in HEADLINE:
        rows, joint = _orders(found, name), found.get(f"{name}/{JOINT}")
        if not rows:
            continue
        mean = _mean(rows, "mean")
        if joint is not None:
            ratios = [row["final"][column] / joint["final"][column] for row in rows for column in COLUMNS]
            yield Goal(
                f"{name}: mean perplexity / joint ceiling", mean / joint["mean"], MEAN_OVER_JOINT, len(rows)
            )
            yield Goal(f"{name}: worst domain / its joint column", max(ratios), WORST_OVER_JOINT, len(rows))
        yield Goal(f"{name}: mean perplexity", mean, ABSOLUTE, len(rows), strict=True)


def _selection(found: Found) -> Iterator[Goal]:
    """COPAL without a weight update against Wanda."""
    copal, wanda, restart = (_orders(found, name) for name in ("copal", "wanda", "wanda:restart"))
    if copal and _same_orders(found, "copal", "wanda"):
        ratio = _mean(copal, "mean") / _mean(wanda, "mean")
        yield Goal("copal: mean perplexity / accumulated wanda's", ratio, OVER_WANDA, len(copal))
    if copal and _same_orders(found, "copal", "wanda:restart"):
        limit = _mean(restart, "bwt") * OF_RESTART
        yield Goal("copal: BWT against a third of wanda restart's", _mean(copal, "bwt"), limit, len(copal), True)


def _protection(found: Found) -> Iterator[Goal]:
    joint, plain = _orders(found, "copal+admm"), _orders(found, "admm")
    if joint and _same_orders(found, "copal+admm", "admm"):
        ratio = _mean(joint, "mean") / _mean(plain, "mean")
        yield Goal("copal+admm: mean perplexity / accumulated admm's", ratio, 1.0, len(joint), strict=True)


def _orders(found: Found, name: str) -> list[dict[str, Any]]:
    return [found[f"{name}/{order}"] for order in ORDERS if f"{name}/{order}" in found]


def _same_orders(found: Found, one: str, other: str) -> bool:
    return all((f"{one}/{order}" in found) == (f"{other}/{order}" in found) for order in ORDERS)


def _mean(rows: list[dict[str, Any]], figure: str) -> float:
    return statistics.fmean(row[figure] for row in rows)
