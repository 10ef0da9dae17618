"""/v1/models"""

from fastapi import APIRouter, Response

from app.auth.dependencies import DataRead, DataWrite
from app.backend import BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.kit.fields import ModelId
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.models import repository, service
from app.models.schemas import ModelCreate, ModelRead
from app.models.service import ModelInUse, ModelNotFound, SourceRefused
from app.quotas.catalogue import MAKING
from app.tables.models import Model

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)


@router.post(
    "",
    summary="Register a model",
    status_code=202,
    response_model=ModelRead,
    responses=problems(SourceRefused, UnsupportedMediaType, *ONCE, *MAKING),
)
async def create_model(
    body: ModelCreate, auth: DataWrite, session: UnitOfWork, backend: BackendDep, once: Once
) -> Response:
    """A folder or GGUF file below one of the service's model roots, or a repository of the hub. The CPU queue
    scans it (safetensors only, no code, known architecture), converts a GGUF, and stores its files."""
    return await once.run(lambda: _pending(service.register(session, auth.project, body, backend.settings)))


@router.get(
    "",
    summary="List models, newest first",
    response_model=Page[ModelRead],
    responses=problems(),
)
def list_models(auth: DataRead, session: UnitOfWork, page: Paging) -> Response:
    """One page of the project's models."""
    return reply(page.page(session, repository.listing(auth.project), ModelRead.model_validate))


@router.get(
    "/{id}",
    summary="Read a model",
    response_model=ModelRead,
    responses=problems(ModelNotFound),
)
def get_model(id: ModelId, auth: DataRead, session: UnitOfWork) -> Response:
    """`state` is pending until the intake is over; a failed one says why in `error`."""
    return reply(ModelRead.model_validate(service.read(session, auth.project, id)))


@router.delete(
    "/{id}",
    summary="Delete a model",
    status_code=204,
    response_class=Response,
    responses=problems(ModelNotFound, ModelInUse),
)
def delete_model(id: ModelId, auth: DataWrite, session: UnitOfWork) -> Response:
    """Refused while any job refers to it, finished or not."""
    service.delete(session, auth.project, id)
    return Response(status_code=204)


def _pending(model: Model) -> Response:
    return reply(ModelRead.model_validate(model), 202, {"Location": f"/v1/models/{model.id}"})
