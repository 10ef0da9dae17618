"""/v1/jobs/{id}/sensitivity"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response
from starlette.responses import StreamingResponse

from app.auth.dependencies import JobsRead
from app.backend import BackendDep, UnitOfWork
from app.history import export, sensitivity_repository
from app.history.query import DomainName, MatrixName, Number, Records, StageNumber, WholeLineage
from app.history.sensitivity_repository import Filter
from app.history.sensitivity_schemas import BlockSensitivityRead, SensitivityRead
from app.jobs import service as jobs
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.headers import Sent, sends
from app.kit.pagination import Page
from app.kit.problems import problems
from app.kit.replies import reply
from secateur.spec.records.history import Basis

router = APIRouter(prefix="/v1/jobs/{id}/sensitivity", tags=["history"])

PARQUET: Final = "application/octet-stream"
"""The name says what is in it; generators of clients know no type of its own."""
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        **sends(Sent.disposition, description="The file"),
        "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}},
    }
}


async def _filter(
    stage: StageNumber = None,
    domain: DomainName = None,
    block: Number = None,
    matrix: MatrixName = None,
    lineage: WholeLineage = False,
    basis: Annotated[
        Basis,
        Query(
            description="Whose scores: `domain` for those that the stage's own domain alone gives, of one unit in "
            "every stage; `accumulated` for those that chose the mask, which in the mode `accumulated` are of all "
            "domains so far and grow with their number and weights. Stages of earlier releases have only those."
        ),
    ] = Basis.domain,
) -> Filter:
    return Filter(stage, domain, block, matrix, lineage, basis)


Narrowed = Annotated[Filter, Depends(_filter)]


@router.get(
    "",
    summary="How important each matrix's weights were to each domain",
    response_model=Page[SensitivityRead],
    responses=problems(JobNotFound),
)
def list_sensitivities(
    id: JobId, auth: JobsRead, session: UnitOfWork, filter: Narrowed, page: Records
) -> Response:
    """Mean, quantiles and histogram of the scores, by stage, block and name; there while the job runs. The scores
    that chose the mask are themselves files of the artifact where the job's `output` asks for them."""
    parts = jobs.parts_of(session, auth.project, id, lineage=filter.lineage)
    return reply(page.page(session, sensitivity_repository.matrices(parts, filter), SensitivityRead.of))


@router.get(
    "/blocks",
    summary="How each stage's sensitivity is spread over the blocks",
    response_model=Page[BlockSensitivityRead],
    responses=problems(JobNotFound),
)
def list_block_sensitivities(
    id: JobId, auth: JobsRead, session: UnitOfWork, filter: Narrowed, page: Records
) -> Response:
    """One row a stage and block: the sum of its matrices' sensitivities, and its share of the stage's sum, both on
    the basis that is asked for."""
    parts = jobs.parts_of(session, auth.project, id, lineage=filter.lineage)
    listing = sensitivity_repository.blocks(parts, filter)

    def show(*row: Any) -> BlockSensitivityRead:
        return BlockSensitivityRead.of(filter.basis, *row)

    return reply(page.page(session, listing, show))


@router.get(
    ".parquet",
    summary="The history as a Parquet file",
    response_class=StreamingResponse,
    responses={**_FILE, **problems(JobNotFound)},
)
def export_history(id: JobId, auth: JobsRead, backend: BackendDep, filter: Narrowed) -> Response:
    """One row a matrix and stage, in the order of stage, block and name, with all that
    `matrices` and `sensitivity` say of it. Quantiles have columns of their own; `notes` is JSON text."""
    from app.history import parquet  # pyarrow: only for those who ask

    with backend.sessions.begin() as session:
        parts = jobs.parts_of(session, auth.project, id, lineage=filter.lineage)
    metadata = {"secateur.job": id, "secateur.lineage": str(filter.lineage).lower()}
    content = parquet.encode(export.records(backend.sessions, parts, filter), metadata)
    headers = {"Content-Disposition": f'attachment; filename="{id}-history.parquet"', "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type=PARQUET, headers=headers)
