"""/v1/datasets"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import DataRead, DataWrite
from app.backend import Backend, BackendDep, UnitOfWork
from app.datasets import repository, service
from app.datasets.schemas import DatasetCreate, DatasetRead, Format, TextField
from app.datasets.service import DatasetInUse, DatasetNotFound, Upload
from app.datasets.text import TextScanner
from app.datasets.upload import DatasetRefused, receive_text
from app.idempotency.once import ONCE, Once
from app.kit.answers import run_hooks
from app.kit.fields import DatasetId, Name
from app.kit.handlers import validation_problem
from app.kit.json_body import StrictRoute, is_json, parse_json
from app.kit.pagination import Page, Paging
from app.kit.problems import FieldError, Invalid, TooLarge, UnsupportedMediaType, problems
from app.kit.replies import reply
from app.quotas.uploads import UPLOADING
from app.tables.datasets import Dataset
from secateur.spec.job import canonical_digest

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=StrictRoute)

_RAW_TYPES: Final[dict[str, Format | None]] = {
    "text/plain": "txt",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/octet-stream": None,
}
_TEXT: Final = {"schema": {"type": "string", "contentMediaType": "text/plain"}, "example": "It was the best of…"}
_LINES: Final = {"schema": {"type": "string"}, "example": '{"text": "One document."}\n{"text": "Another."}\n'}
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "text/plain": _TEXT,
        "application/x-ndjson": _LINES,
        "application/jsonl": _LINES,
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": {"$ref": "#/components/schemas/DatasetCreate"}},
    },
}


@router.post(
    "",
    summary="Upload a text, or have one fetched from the hub",
    status_code=201,
    response_model=DatasetRead,
    responses={
        202: {"model": DatasetRead, "description": "It will be fetched from the hub"},
        **problems(DatasetRefused, UnsupportedMediaType, *ONCE, *UPLOADING),
    },
    openapi_extra={"requestBody": _BODY},
)
async def create_dataset(
    request: Request,
    auth: DataWrite,
    session: UnitOfWork,
    backend: BackendDep,
    once: Once,
    name: Annotated[Name | None, Query(description="Required with an upload.")] = None,
    format: Annotated[
        Format | None,
        Query(description="`txt`: one document; `jsonl`: one JSON object a line. By default as the type says."),
    ] = None,
    text_field: Annotated[TextField, Query(description="Field of a jsonl line that holds the text.")] = "text",
) -> Response:
    """Send the text itself as the body (`text/plain`, `application/x-ndjson`), or a JSON document that names a
    dataset of the hub. A text is checked while it arrives: UTF-8, no NUL, and for jsonl one object a line with
    a string under `text_field`."""
    if is_json(request.headers.get("content-type")) and format is None:
        value = await _small_body(request, backend)
        digest = await run_in_threadpool(canonical_digest, value)
        return await once.run(lambda: _from_hub(session, auth.project, value), digest)
    format = _upload_format(request, format)
    if name is None:
        raise Invalid("name is missing", errors=[FieldError("is missing", parameter="name")])
    field = text_field if format == "jsonl" else None
    scan = TextScanner(format, field)
    async with receive_text(request, backend.settings.work_dir / "uploads", scan) as path:
        upload = Upload(name, format, field, path, scan)
        await once.look(scan.sha256)
        await run_in_threadpool(service.store_upload, backend, auth.project, upload)
        return await once.run(
            lambda: _made(service.add_upload(session, backend, auth.project, upload), 201), scan.sha256
        )


@router.get(
    "",
    summary="List datasets, newest first",
    response_model=Page[DatasetRead],
    responses=problems(),
)
def list_datasets(auth: DataRead, session: UnitOfWork, page: Paging) -> Response:
    """One page of the project's datasets."""
    return reply(page.page(session, repository.listing(auth.project), DatasetRead.model_validate))


@router.get(
    "/{id}",
    summary="Read a dataset",
    response_model=DatasetRead,
    responses=problems(DatasetNotFound),
)
def get_dataset(id: DatasetId, auth: DataRead, session: UnitOfWork) -> Response:
    """`state` is pending until a dataset of the hub has been fetched; failed ones say why in `error`."""
    return reply(DatasetRead.model_validate(service.read(session, auth.project, id)))


@router.delete(
    "/{id}",
    summary="Delete a dataset and its text",
    status_code=204,
    response_class=Response,
    responses=problems(DatasetNotFound, DatasetInUse),
)
def delete_dataset(
    id: DatasetId, request: Request, auth: DataWrite, session: UnitOfWork, backend: BackendDep
) -> Response:
    """Refused while an unfinished job needs it. What finished jobs computed from it stays."""
    key = service.delete(session, auth.project, id)
    answer = Response(status_code=204)
    run_hooks(request, answer)
    session.commit()
    if key is not None:
        service.drop_text(backend, key)
    return answer


async def _small_body(request: Request, backend: Backend) -> Any:
    """The JSON body, under the limit for JSON although the address takes large bodies."""
    limit, data = backend.settings.max_body_bytes, bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise TooLarge(limit)
    return parse_json(bytes(data))


def _from_hub(session: Session, project: str, value: Any) -> Response:
    try:
        body = DatasetCreate.model_validate(value)
    except ValidationError as error:
        raise validation_problem(error, value) from None
    return _made(service.request_from_hub(session, project, body), 202)


def _made(dataset: Dataset, status: int) -> Response:
    return reply(DatasetRead.model_validate(dataset), status, {"Location": f"/v1/datasets/{dataset.id}"})


def _upload_format(request: Request, format: Format | None) -> Format:
    """What the address or the type says. Raises UnsupportedMediaType, Invalid."""
    main, _, parameters = request.headers.get("content-type", "application/octet-stream").partition(";")
    main = main.strip().lower()
    if main not in _RAW_TYPES:
        raise UnsupportedMediaType(f"Send the text as one of {', '.join(_RAW_TYPES)}, not as {main[:60]!r}.")
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    if charset not in ("", "utf-8", "utf8", "us-ascii") or "content-encoding" in request.headers:
        raise UnsupportedMediaType("Send the text as plain UTF-8, not compressed.")
    found = format or _RAW_TYPES[main]
    if found is None:
        raise Invalid("format is missing", errors=[FieldError("is missing", parameter="format")])
    return found
