"""/v1/jobs/{id}/state"""

from typing import Any, Final

from fastapi import APIRouter, Response

from app.artifacts import service, state
from app.artifacts.ranges import Range, RangeNotSatisfiable
from app.artifacts.service import NoArtifacts
from app.artifacts.state import MEDIA_TYPE
from app.auth.dependencies import JobsRead
from app.backend import BackendDep
from app.jobs.service import JobNotFound
from app.kit.conditions import CURRENT, IfNoneMatch, none_match
from app.kit.fields import JobId
from app.kit.headers import Sent, sends
from app.kit.problems import problems

router = APIRouter(prefix="/v1/jobs/{id}/state", tags=["artifacts"])

_BINARY: Final = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_WHOLE: Final = (Sent.etag, Sent.ranges, Sent.disposition)
_ARCHIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {**sends(*_WHOLE, description="The archive"), "content": _BINARY},
    206: {**sends(*_WHOLE, Sent.range, description="The range"), "content": _BINARY},
    304: sends(*_WHOLE, description=CURRENT),
}


@router.get(
    "",
    summary="The final state as one archive",
    response_class=Response,
    responses={**_ARCHIVE, **problems(JobNotFound, NoArtifacts, RangeNotSatisfiable)},
)
def export_state(
    id: JobId,
    auth: JobsRead,
    backend: BackendDep,
    range: Range,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A tar with `state.json` (the dense model's id and digest, the lineage, the spec, each file's sha256) and,
    one safetensors file a block each, every block's statistics (`state/`) and its pruned weights (`model/`): all
    that a continuation needs beside the dense model, which is not in it. It is for keeping, and for the engine by
    itself; a continuation here needs the job, not the archive. The same files are at `artifacts/…` one by one."""
    with backend.sessions.begin() as session:  # which ends before the store is asked for anything
        export = state.export(session, auth.project, id, backend.store)
    headers = export.headers()
    if not none_match(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    service.require(backend.store, export.files)
    return range.answer(export.archive.stream, export.archive.size, headers, MEDIA_TYPE)
