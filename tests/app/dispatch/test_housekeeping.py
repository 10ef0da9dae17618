import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.dispatch.housekeeping import clean_round
from app.settings import Settings
from app.tables.outbox import OutboxMessage


def test_a_step_that_fails_does_not_stop_the_others(session: Session, settings: Settings) -> None:
    session.add(OutboxMessage(queue="cpu", hint="old", published_at=from_now(-200_000)))
    session.execute(text("ALTER TABLE job_leases RENAME TO elsewhere"))
    session.commit()
    with pytest.raises(ProgrammingError):
        clean_round(settings)
    assert session.scalar(select(func.count()).where(OutboxMessage.hint == "old")) == 0
