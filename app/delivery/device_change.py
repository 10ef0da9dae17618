"""On which device a job goes on: its bytes are those of an uninterrupted run only on one like the first."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.delivery.lease import Lease
from app.settings import get_settings
from app.tables.jobs import Job, JobAttempt
from app.workers import devices
from secateur.spec.job import canonical_digest
from secateur.spec.records.device import Fingerprint

OWN: Final = {"uuid", "threads", "gpus"}
"""Of a fingerprint, what tells alike devices apart, what a resume has pinned anyway, and what decides no bit."""

COMPUTED: Final = """
    (EXISTS (SELECT FROM job_blocks b WHERE b.job_id = j.id) OR EXISTS (
        SELECT FROM job_evaluations e WHERE e.job_id = j.id AND NOT EXISTS (
            SELECT FROM job_evaluations p
            WHERE p.job_id = j.continues AND p.row = e.row AND p.domain = e.domain)))
"""
"""Condition on `jobs j`: it has computed something itself; what it has of the job before does not count."""
SAME_DEVICE: Final = f"""
    (NOT :same_device OR CAST(:fingerprint AS text) IS NULL
     OR coalesce(j.basis #>> '{{device,digest}}' = CAST(:fingerprint AS text), true)
     OR NOT {COMPUTED})
"""
"""Condition on `jobs j`: the worker of `parameters` may go on with it, as may one that is not known yet."""


@dataclass(frozen=True)
class Change:
    """The device is another one than the job's checkpoint was made on. before, now: what differs."""

    before: dict[str, Any]
    now: dict[str, Any]
    refused: bool

    @property
    def message(self) -> str:
        names = ", ".join(sorted(self.before))
        if self.refused:
            return f"The job goes on only on a device like the one it was begun on; this one differs by {names}."
        return f"The job goes on on another device (by {names}): its bytes may not be those of one run."


def parameters(session: Session, worker: str) -> dict[str, Any]:
    """What `SAME_DEVICE` is bound with."""
    same = get_settings().resume_on == "same_device"
    return {"same_device": same, "fingerprint": devices.fingerprint_of(session, worker) if same else None}


def settle(session: Session, lease: Lease, device: Fingerprint) -> Change | None:
    """Note what the attempt computes on, for the job and for its worker; how it differs from what the job's
    checkpoint was made on, if there is one. The transaction must be guarded."""
    job = session.get_one(Job, lease.job_id)
    known = device.model_dump(mode="json", exclude=OWN)
    digest = canonical_digest(known)
    now = {"digest": digest, "known": known}
    worker = session.get_one(JobAttempt, (lease.job_id, lease.attempt)).worker
    devices.note_fingerprint(session, worker, digest)
    before = (job.basis or {}).get("device")
    change = None
    if before is not None and before["digest"] != digest and _has_computed(session, lease.job_id):
        refused = get_settings().resume_on == "same_device"
        names = [name for name in known if known[name] != before["known"].get(name)]
        change = Change(
            {name: before["known"].get(name) for name in names}, {name: known[name] for name in names}, refused
        )
    if change is None or not change.refused:
        job.basis = {**(job.basis or {}), "device": now}
    return change


def _has_computed(session: Session, job_id: str) -> bool:
    asked = text(f"SELECT {COMPUTED} FROM jobs j WHERE j.id = :id")  # noqa: S608 - constants only
    return bool(session.scalar(asked, {"id": job_id}))
