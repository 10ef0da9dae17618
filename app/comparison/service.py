"""Rules of comparing two jobs: what does not compare is refused, with the difference."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.comparison import evaluation, repository
from app.comparison.repository import Side
from app.comparison.schemas import (
    AgreementRead,
    ComparedEvaluationRead,
    ComparedHistoryRead,
    ComparedMatrixRead,
    ComparedStageRead,
)
from app.comparison.scores import Scored, same_scores
from app.history.evaluation import evaluation_of
from app.kit.pagination import Page, PageRequest
from app.kit.problems import FieldError, Problem
from app.lineage import stages
from app.tables.jobs import Job
from secateur.spec.records.history import Basis


class NotComparable(Problem):
    status, code, title = 409, "not_comparable", "The two jobs do not compare"

    def __init__(
        self, differences: Sequence[str] = ("their protocols differ",), hint: str = "", parameter: str = "other"
    ) -> None:
        errors = [FieldError(each, parameter=parameter) for each in differences]
        super().__init__("; ".join(differences[:3]) + hint, errors=errors)


@dataclass(frozen=True)
class Wanted:
    """Which stages, which matrices, which page."""

    stage: int | None
    other_stage: int | None
    matrix: str | None
    page: PageRequest


def compare_evaluations(session: Session, job: Job, other: Job) -> ComparedEvaluationRead:
    """Both matrices R. Raises NotComparable when a domain's protocols differ, or none is in both."""
    here, there = evaluation_of(session, job), evaluation_of(session, other)
    differences = list(evaluation.protocol_differences(here, there))
    if differences:
        raise NotComparable(differences, "; part=history compares the matrices alone")
    return evaluation.side_by_side(here, there)


def compare_histories(session: Session, job: Job, other: Job, wanted: Wanted) -> ComparedHistoryRead:
    """What both did to each matrix. Raises NotComparable for different models, and without a finished stage."""
    digests = [repository.model_digest(session, each.model_id) for each in (job, other)]
    if digests[0] != digests[1] or digests[0] is None:
        names = [f"{each.model_id} ({digest})" for each, digest in zip((job, other), digests, strict=True)]
        hint = "; part=evaluation compares the perplexities alone"
        raise NotComparable([f"the model is {names[0]} here and {names[1]} there"], hint)
    sides = (
        _side(session, job, wanted.stage, "stage"),
        _side(session, other, wanted.other_stage, "other_stage"),
    )
    basis = repository.common_basis(session, *sides)
    rows, following = repository.list_pairs(session, *sides, basis, wanted.matrix, wanted.page)
    scored = _scored(session, job, sides[0], basis), _scored(session, other, sides[1], basis)
    solvers = [(row.one["solver"], row.other["solver"]) for row in rows]
    alike = {pair: same_scores(*scored, *pair) for pair in set(solvers)}
    data = [ComparedMatrixRead.of(row, one_unit=alike[pair]) for row, pair in zip(rows, solvers, strict=True)]
    one, two = (ComparedStageRead(stage=side.stage, domain=side.domain) for side in sides)
    return ComparedHistoryRead(
        job=one,
        other=two,
        sensitivity_basis=basis,
        agreement=AgreementRead(**repository.totals(session, *sides, wanted.matrix)),
        matrices=Page[ComparedMatrixRead](data=data, next_cursor=following),
    )


def _scored(session: Session, job: Job, side: Side, basis: Basis) -> Scored:
    return Scored([each.spec for each in stages.path_of(session, job)], side.stage, basis)


def _side(session: Session, job: Job, stage: int | None, parameter: str) -> Side:
    side = repository.last_stage(session, job.id, stage)
    if side is None:
        what = "no finished stage" if stage is None else f"no finished stage {stage}"
        raise NotComparable([f"{job.id} has {what}"], parameter=parameter)
    return side
