"""/v1/datasets"""

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import DataRead, DataWrite
from app.backend import BackendDep, UnitOfWork
from app.datasets import repository, service
from app.datasets.schemas import Compression, DatasetCreate, DatasetRead, FileFormat, TextField
from app.datasets.service import DatasetInUse, DatasetNotFound, Sent, Upload
from app.datasets.upload import DatasetRefused, DigestMismatch, receive
from app.idempotency.once import ONCE, Once
from app.kit.answers import run_hooks
from app.kit.fields import DatasetId, Name
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import FieldError, Invalid, UnsupportedMediaType, problems
from app.kit.replies import reply
from app.quotas.catalogue import MAKING
from app.quotas.uploads import UPLOADING
from app.tables.datasets import Dataset, IntakeState

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=StrictRoute)

OCTETS: Final = "application/octet-stream"
_FILE: Final[dict[str, Any]] = {
    "required": True,
    "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
}
_DIGEST: Final = "SHA-256 of the body, as `sha-256=:BASE64:` (RFC 9530); checked."


@router.post(
    "",
    summary="Have a dataset of the hub fetched",
    status_code=202,
    response_model=DatasetRead,
    responses=problems(UnsupportedMediaType, *ONCE, *MAKING),
)
async def create_dataset(body: DatasetCreate, auth: DataWrite, session: UnitOfWork, once: Once) -> Response:
    """Its files are fetched at one commit and read by the CPU queue; no code of a repository is ever run. A file
    of your own is sent to `/v1/datasets/upload`."""
    return await once.run(lambda: _made(service.request_from_hub(session, auth.project, body)))


@router.post(
    "/upload",
    summary="Upload a dataset",
    status_code=201,
    response_model=DatasetRead,
    responses={
        202: {"model": DatasetRead, "description": "It has arrived, and is read by the CPU queue"},
        **problems(DatasetRefused, DigestMismatch, UnsupportedMediaType, *ONCE, *UPLOADING),
    },
    openapi_extra={"requestBody": _FILE},
)
async def upload_dataset(
    request: Request,
    auth: DataWrite,
    session: UnitOfWork,
    backend: BackendDep,
    once: Once,
    name: Annotated[Name, Query(description="What to call it.")],
    format: Annotated[
        FileFormat,
        Query(
            description="`txt`: one document; `jsonl`: one JSON object a line; `csv`: with a header line and "
            "commas; `parquet`."
        ),
    ],
    compression: Annotated[Compression, Query(description="How the file itself is packed.")] = Compression.none,
    text_field: Annotated[
        TextField | None,
        Query(
            description="Field or column that holds the text, or lists of messages ({role, content}). By default "
            "`text`, `messages` or `conversations`, the first that is there. Not for txt."
        ),
    ] = None,
    content_digest: Annotated[str | None, Header(description=_DIGEST)] = None,
    repr_digest: Annotated[str | None, Header(description=_DIGEST)] = None,
) -> Response:
    """The body is the file. A txt or jsonl that is not packed is checked while it arrives and ready at once (201);
    every other file is read by the CPU queue (202). Texts are UTF-8; a row of a csv or Parquet file without a text
    is left out and counted."""
    _check_type(request)
    if format is FileFormat.txt and text_field is not None:
        raise Invalid(errors=[FieldError("a txt has no fields; leave it out", parameter="text_field")])
    upload = Upload(name, format, compression, text_field)
    scan = upload.scanner()
    async with receive(request, backend.settings.work_dir / "uploads", scan) as path:
        await once.look(scan.sha256)
        sent = Sent(upload, scan, path)
        await run_in_threadpool(service.store_upload, backend, auth.project, sent)
        work = partial(service.add_upload, session, backend, auth.project, sent)
        return await once.run(lambda: _made(work()), scan.sha256)


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
    """`state` is pending until a packed file or a dataset of the hub has been read; failed ones say why in
    `error`."""
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


def _made(dataset: Dataset) -> Response:
    status = 202 if dataset.state == IntakeState.pending else 201
    return reply(DatasetRead.model_validate(dataset), status, {"Location": f"/v1/datasets/{dataset.id}"})


def _check_type(request: Request) -> None:
    """Raises UnsupportedMediaType."""
    kind = request.headers.get("content-type", OCTETS).partition(";")[0].strip().lower()
    if kind != OCTETS:
        raise UnsupportedMediaType(f"Send the file as Content-Type: {OCTETS}, not as {kind[:60]!r}.")
    if "content-encoding" in request.headers:
        raise UnsupportedMediaType("Send the file without Content-Encoding; `compression` says how it is packed.")
