"""`Idempotency-Key`: the same request twice makes one job (draft-ietf-httpapi-idempotency-key-header).

The record is written in the transaction that makes the job, so that both exist or neither. It outlives a deleted
job: a late repetition gets the old answer, and not the work of hours once more.
"""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.kit.problems import Problem
from app.tables.jobs import IdempotencyKey

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Names this request, for example a UUID; repeating it gives the same job.",
    ),
]


class KeyInFlight(Problem):
    status, code, title = (
        409,
        "idempotency_key_in_flight",
        "This Idempotency-Key is being worked on",
    )

    def __init__(self) -> None:
        super().__init__("Repeat the request in a second.", headers={"Retry-After": "1"})


class KeyReused(Problem):
    status, code, title = 422, "idempotency_key_reused", "The Idempotency-Key was used with another body"


def find_replay(session: Session, project: str, key: str, fingerprint: str) -> dict[str, Any] | None:
    """The answer that this request got before, if it did; else the key is ours until the transaction ends.

    Raises KeyInFlight, KeyReused.
    """
    lock = func.pg_try_advisory_xact_lock(func.hashtextextended(f"idempotency {project} {key}", 0))
    if not session.scalar(select(lock)):
        raise KeyInFlight
    mine = (IdempotencyKey.project_id == project, IdempotencyKey.key == key)
    session.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.expires_at <= func.now()))
    record = session.scalars(select(IdempotencyKey).where(*mine)).one_or_none()
    if record is None:
        return None
    if record.fingerprint != fingerprint:
        raise KeyReused
    return record.response


def remember(
    session: Session, project: str, key: str, fingerprint: str, job: str, response: dict[str, Any], hours: float
) -> None:
    """Keep the answer for replays."""
    session.add(
        IdempotencyKey(
            project_id=project,
            key=key,
            fingerprint=fingerprint,
            job_id=job,
            response=response,
            expires_at=func.now() + timedelta(hours=hours),
        )
    )
