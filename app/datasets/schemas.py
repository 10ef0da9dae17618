"""Datasets as callers send and see them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.kit.fields import PLAIN_NAME, HubId, Name, Revision
from app.kit.refs import InputError
from app.tables.datasets import IntakeState
from secateur.spec.strict import Strict
from secateur.spec.words import ONE_LINE


class FileFormat(StrEnum):
    """What an uploaded file is."""

    txt = "txt"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class Compression(StrEnum):
    """How an uploaded file is packed."""

    none = "none"
    gzip = "gzip"
    zstd = "zstd"


Format = Literal["txt", "jsonl", "chat"]
TextField = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=ONE_LINE)]
_Part = Annotated[str, StringConstraints(max_length=200, pattern=PLAIN_NAME)]


class HubReference(Strict):
    """A dataset of the hub."""

    id: HubId
    config: _Part | None = Field(default=None, description="The dataset's configuration; null takes its only one.")
    split: _Part = "train"
    revision: Revision = "main"
    text_field: TextField | None = Field(
        default=None,
        description="Column of the text, or of lists of messages; null takes `text`, `messages` or "
        "`conversations`, the first that is there.",
    )


class DatasetCreate(Strict):
    """Have a dataset of the hub fetched."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "wiki", "hub": {"id": "Salesforce/wikitext", "config": "wikitext-2-v1", "split": "test"}}
            ]
        }
    )

    name: Name
    hub: HubReference


class UploadedFile(BaseModel):
    """The file as it was sent."""

    format: FileFormat
    compression: Compression
    text_field: str | None = Field(description="As asked for.")
    bytes: int
    sha256: str
    null_rows: int | None = Field(default=None, description="Rows without a text, which were left out.")


class DatasetRead(BaseModel):
    """A dataset; its text never changes. The counts are null until it is ready, and are those of the text as it is
    pruned on, not of a packed file."""

    model_config = ConfigDict(from_attributes=True, title="Dataset")

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    state: IntakeState
    source: Literal["upload", "hub"]
    format: Format = Field(
        description="`txt`: one document. `jsonl`: a document a line. `chat`: a conversation a line, which a job "
        "renders by its model's own chat template. Of a pending dataset not yet known for sure."
    )
    text_field: str | None
    hub: dict[str, Any] | None
    upload: UploadedFile | None = None
    bytes: int | None
    documents: int | None
    characters: int | None
    sha256: str | None
    error: InputError | None
    created_at: datetime
    updated_at: datetime
