"""What the database says about objects: which are referred to, and where somebody may still write."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.delivery import object_keys
from app.delivery.events import append_event, lock_job
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobBlock, JobStage
from app.tables.states import LEASED, TERMINAL, State


@dataclass(frozen=True)
class Writer:
    """An unfinished job, and what of its places is still open."""

    fence: int
    held: bool
    """Whether a worker has it."""
    done: frozenset[int]
    """Stages all of whose blocks are committed."""


@dataclass(frozen=True)
class Chain:
    """A chain of retries as of one moment."""

    known: bool
    """Whether any of its jobs is left."""
    writers: dict[str, Writer]
    """Unfinished jobs by id."""
    referred: frozenset[str]
    """Keys in checkpoints and manifests."""

    def is_garbage(self, key: str) -> bool:
        """Whether nothing refers to an object that was there before this moment, nor ever will.

        A place that is closed never opens again: fences only grow, ends are final, and a stage that is done under
        the fence of its uploads stays so.
        """
        if key in self.referred:
            return False
        place = object_keys.parse(key)
        if place is None:
            return not self.writers
        writer = self.writers.get(place.job)
        if writer is None or not writer.held or place.fence < writer.fence:
            return True
        return place.stage is not None and place.stage in writer.done


def chain(session: Session, root: str) -> Chain:
    """Look at a chain. List its objects before, or an upload in between would look like garbage."""
    # The writers first: once a place is closed nothing more can come to be referred to, so the references that
    # are read after it are complete.
    jobs = select(Job.id, Job.state, Job.fence).where(or_(Job.id == root, Job.root_id == root))
    states = session.execute(jobs).all()
    unfinished = {row.id: row for row in states if State(row.state) not in TERMINAL}
    of_them = JobStage.job_id.in_(list(unfinished))
    stages = select(JobStage.job_id, JobStage.stage).where(of_them, JobStage.state == "done")
    done = session.execute(stages).all()
    writers = {
        id: Writer(row.fence, State(row.state) in LEASED, frozenset(stage for job, stage in done if job == id))
        for id, row in unfinished.items()
    }
    return Chain(bool(states), writers, frozenset(session.scalars(_REFERENCES, {"root": root})))


_REFERENCES: Final = text("""
    SELECT file ->> 'key' FROM jobs j JOIN job_blocks b ON b.job_id = j.id
    CROSS JOIN LATERAL jsonb_array_elements(b.files) file WHERE j.id = :root OR j.root_id = :root
    UNION
    SELECT file ->> 'key' FROM jobs j
    CROSS JOIN LATERAL jsonb_array_elements(j.manifest -> 'files') file
    WHERE (j.id = :root OR j.root_id = :root) AND j.manifest IS NOT NULL
    UNION
    SELECT j.manifest ->> 'key' FROM jobs j
    WHERE (j.id = :root OR j.root_id = :root) AND j.manifest ->> 'key' IS NOT NULL
""")


def drop_checkpoints(session: Session, keep_seconds: float, limit: int = 100) -> int:
    """Give up the checkpoints that nothing can be resumed from any more; how many there were.

    A job that has published has its artifact; one that failed or was cancelled can be retried for `keep_seconds`.
    """
    late = Job.finished_at < from_now(-keep_seconds)
    due = Job.state.in_(TERMINAL) & or_(Job.manifest.is_not(None), late)
    query = select(Job).where(due, Job.checkpoint_dropped_at.is_(None), Job.basis.is_not(None)).limit(limit)
    jobs = session.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()
    for job in jobs:
        session.execute(update(JobBlock).where(JobBlock.job_id == job.id).values(files=[]))
        lock_job(session, job)
        job.checkpoint_dropped_at = func.now()
        if job.manifest is None:
            job.stored_bytes = 0
            append_event(session, job, EventType.checkpoint_dropped, {})
    return len(jobs)


_MODEL_KEYS: Final = text("""
    SELECT file ->> 'key' FROM models m CROSS JOIN LATERAL jsonb_array_elements(m.files) file
    WHERE m.project_id = :project AND m.files IS NOT NULL
""")


def published_places(session: Session, project: str) -> list[str]:
    """Every `output.publish_to` of the project's jobs."""
    place = Job.spec["output"]["publish_to"].astext
    return list(session.scalars(select(place).where(Job.project_id == project, place.is_not(None))).all())


def model_keys(session: Session, project: str) -> set[str]:
    """Objects that the project's models refer to."""
    result: Any = session.scalars(_MODEL_KEYS, {"project": project})
    return set(result)
