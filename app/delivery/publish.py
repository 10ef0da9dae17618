"""Publishing: one guarded update makes a finished job's files its artifact."""

from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, Final

from sqlalchemy.orm import Session

from app.counts import ARTIFACT_BYTES, count
from app.delivery.endings import Failure, end_attempt
from app.delivery.events import append_event, lock_job
from app.delivery.lease import Lease, guard
from app.delivery.object_keys import StoredFile
from app.delivery.transitions import transition
from app.history.evaluation import evaluation_of
from app.lineage.warnings import warnings_of
from app.tables.event_types import EventType
from app.tables.jobs import Job, Outcome
from app.tables.states import Reason, State
from app.tables.tasks import TaskKind
from app.tasks import service as tasks
from secateur.digests import tree_digest
from secateur.spec import gate
from secateur.spec.metrics import Figures
from secateur.spec.records.pipe import Summary

MEDIA_TYPES: Final = {".json": "application/json", ".txt": "text/plain; charset=utf-8", ".md": "text/markdown"}


def make_manifest(files: list[StoredFile], provenance: dict[str, Any]) -> dict[str, Any]:
    """The artifact's table of contents. Its digest says what is in it, not where or when it was made."""
    ordered = sorted(files, key=lambda file: file.path)
    return {
        "digest": tree_digest((file.path, file.sha256) for file in ordered),
        "bytes": sum(file.bytes for file in ordered),
        "files": [{**asdict(file), "media_type": _media_type(file.path)} for file in ordered],
        "provenance": provenance,
    }


def publish(session: Session, lease: Lease, manifest: dict[str, Any], summary: Summary) -> State:
    """Make the job succeed with this artifact, unless its cancellation was committed first.

    A job that misses its gate has failed, with the artifact all the same. Raises LeaseLost.
    """
    row = guard(session, lease)
    job = session.get_one(Job, lease.job_id)
    lock_job(session, job)
    if State(job.state) is State.cancelling:
        end_attempt(session, row, job, Outcome.cancelled, None)
        transition(session, job, State.cancelled, reason="cancel_requested")
        return State.cancelled
    size = {"bytes": manifest["bytes"], "files": len(manifest["files"])}
    job.manifest = manifest
    job.stored_bytes = manifest["bytes"]
    figures = evaluation_of(session, job).model_dump(include=set(Figures.model_fields))
    job.result = {
        "manifest_digest": manifest["digest"],
        **size,
        **summary.model_dump(include={"sparsity", "masks_sha256", "weights_sha256"}),
        **figures,
        "warnings": [each.model_dump() for each in (*warnings_of(session, job), *summary.warnings)],
    }
    failure = _judge(job, figures)
    end_attempt(session, row, job, Reason.gate_failed if failure else Outcome.succeeded, failure)
    count(session, ARTIFACT_BYTES, manifest["bytes"], op="published")
    append_event(session, job, EventType.published, {"manifest_digest": manifest["digest"], **size})
    if failure is None:
        transition(session, job, State.succeeded, reason="published")
        if job.spec.get("output", {}).get("publish_to") is not None:
            tasks.submit(session, job.project_id, TaskKind.publication, job.id)
    else:
        job.failure = failure
        transition(session, job, State.failed, reason=Reason.gate_failed, message=failure["message"])
    return State(job.state)


def _judge(job: Job, figures: dict[str, float | None]) -> dict[str, Any] | None:
    """Why the job has failed by its gate; None when it keeps it."""
    missed = gate.missed(job.spec.get("gate"), figures, job.first_stage + len(job.spec["domains"]))
    if not missed:
        return None
    message = f"The result misses the gate: {'; '.join(missed.values())}. Its files are kept."
    return Failure(Reason.gate_failed, message, field=f"/gate/{next(iter(missed))}").as_json()


def _media_type(path: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")
