"""The figures of a lineage's matrix R, for the engine's report, the API, the gate and the benchmarks."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import BaseModel, Field

Entries = Mapping[tuple[int, str], float]
"""R: (row, domain) → perplexity. Row 0 is the dense model, row t + 1 comes after stage t; a column is there where
any row has an entry."""


class Figures(BaseModel, frozen=True):
    """What follows from R; each is null where an entry that it needs is missing.

    No change of masks leaves BWT at zero beside a bad later column, so it is never to be read without R.
    """

    mean_perplexity: float | None = Field(default=None, description="Mean of the last row of R.")
    dense_mean_perplexity: float | None = Field(
        default=None, description="Mean of row 0 of R, over the domains that it knows."
    )
    bwt: float | None = Field(
        default=None,
        description="Backward transfer on perplexity, over the whole lineage: mean over the evaluated domains "
        "before the last of R[T,i] − R[i,i]. Positive means forgetting; null until the end, and for one stage.",
    )
    log_bwt: float | None = Field(default=None, description="The same of log-perplexities.")


def figures(stages: Sequence[str], entries: Entries) -> Figures:
    """What follows from R. stages: each stage's domain, of the whole lineage."""
    columns = dict.fromkeys(domain for _, domain in entries)
    last = [entries.get((len(stages), domain)) for domain in columns]
    return Figures(
        mean_perplexity=None if None in last else mean(last),
        dense_mean_perplexity=mean(entries.get((0, domain)) for domain in columns),
        bwt=_transfer(stages, entries, float),
        log_bwt=_transfer(stages, entries, math.log),
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    # fsum refuses infinities of both signs, whose sum is not a number.
    total = math.fsum(known) if all(map(math.isfinite, known)) else sum(known)
    return total / len(known)


def _transfer(stages: Sequence[str], entries: Entries, scale: Callable[[float], float]) -> float | None:
    columns = {domain for _, domain in entries}
    differences = []
    for row, domain in enumerate(stages[:-1], start=1):
        if domain not in columns:
            continue
        last, own = entries.get((len(stages), domain)), entries.get((row, domain))
        if last is None or own is None:
            return None
        differences.append(scale(last) - scale(own))
    return mean(differences)
