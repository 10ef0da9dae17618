"""`output.publish_to`: a place of the store belongs to one job of a project at a time."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.service import InputRefused
from app.kit.problems import FieldError
from app.tables.jobs import Job
from app.tables.states import State

_ENDED = (State.failed, State.cancelled)
_PLACE = Job.spec["output"]["publish_to"].astext


def claim_place(session: Session, project: str, prefix: str | None) -> None:
    """Nobody else gets it before the transaction ends. Raises InputRefused when another job has it.

    A place inside of another one's folder, or around it, is taken too.
    """
    if prefix is None:
        return
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{project} published", 0))))
    holder = session.execute(
        select(Job.id, _PLACE)
        .where(Job.project_id == project, Job.state.not_in(_ENDED), _PLACE.is_not(None))
        .where(
            func.starts_with(_PLACE + "/", prefix + "/") | func.starts_with(prefix + "/", _PLACE + "/"),
        )
        .order_by(Job.id)
        .limit(1)
    ).first()
    if holder is not None:
        detail = f"{holder[0]} publishes to {holder[1]!r}; choose another place, or delete that job"
        raise InputRefused(
            f"output.publish_to: {detail}", errors=[FieldError(detail, pointer="/output/publish_to")]
        )
