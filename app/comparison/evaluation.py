"""Two matrices R side by side; perplexities of different protocols are never set beside each other."""

from collections.abc import Iterator
from typing import Any, Final

from app.comparison.schemas import ComparedEvaluationRead, ComparedRowRead, TwoRead
from app.jobs.schemas import EvaluationRead, RowRead
from secateur.spec.metrics import mean

UNSAID: Final[dict[str, Any]] = {"prefix": [], "documents": "joined"}
"""What was so before protocols said it."""


def protocol_differences(one: EvaluationRead, other: EvaluationRead) -> Iterator[str]:
    """What is not the same in the protocols of the domains that both have, in words."""
    shared = _shared(one, other)
    if not shared:
        yield f"no domain is evaluated by both: {_list(one.domains)} here, {_list(other.domains)} there"
    for domain in shared:
        here, there = UNSAID | one.protocols[domain], UNSAID | other.protocols[domain]
        for name in sorted({*here, *there}):
            if here.get(name) != there.get(name):
                yield f"{domain}: {name} is {here.get(name)} here and {there.get(name)} there"


def side_by_side(one: EvaluationRead, other: EvaluationRead) -> ComparedEvaluationRead:
    """Both matrices over the domains that both have, which must have the same protocols."""
    shared = _shared(one, other)
    same = _measured(one) == _measured(other)
    both = [domain for domain in shared if domain in _measured(one) & _measured(other)]
    here, there = ({row.row: row for row in each.rows} for each in (one, other))
    rows = [_row(number, here.get(number), there.get(number), shared) for number in sorted({*here, *there})]
    return ComparedEvaluationRead(
        domains=shared,
        only_job=[domain for domain in one.domains if domain not in shared],
        only_other=[domain for domain in other.domains if domain not in shared],
        rows=rows,
        mean_perplexity=TwoRead.of(_final(one, both), _final(other, both)),
        bwt=TwoRead.of(one.bwt if same else None, other.bwt if same else None),
        log_bwt=TwoRead.of(one.log_bwt if same else None, other.log_bwt if same else None),
    )


def _shared(one: EvaluationRead, other: EvaluationRead) -> list[str]:
    return [domain for domain in one.domains if domain in other.domains]


def _measured(evaluation: EvaluationRead) -> set[str]:
    """The columns of R that its figures take account of."""
    return set(evaluation.domains) - set(evaluation.not_measured)


def _row(number: int, here: RowRead | None, there: RowRead | None, shared: list[str]) -> ComparedRowRead:
    found = {}
    for domain in shared:
        values = [None if row is None else row.perplexity.get(domain) for row in (here, there)]
        found[domain] = TwoRead.of(*values)
    after, other_after = (None if row is None else row.after for row in (here, there))
    return ComparedRowRead(row=number, after=after, other_after=other_after, perplexity=found)


def _final(evaluation: EvaluationRead, domains: list[str]) -> float | None:
    """Mean over these domains of the last row, once the job has it."""
    if evaluation.mean_perplexity is None or not domains:
        return None
    values = [evaluation.rows[-1].perplexity.get(domain) for domain in domains]
    return None if None in values else mean(values)


def _list(domains: list[str]) -> str:
    return ", ".join(domains) or "none"
