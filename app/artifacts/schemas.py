"""Artifacts as callers see them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FileRead(BaseModel):
    """One file of the artifact."""

    path: str
    sha256: str
    bytes: int
    media_type: str


class CheckedFileRead(BaseModel):
    """Whether a stored file is there and has the manifest's sha256."""

    path: str
    ok: bool


class VerificationRead(BaseModel):
    """What hashing the stored files again has found."""

    model_config = ConfigDict(title="Verification")

    ok: bool = Field(description="Whether all of them are.")
    files: list[CheckedFileRead]


class ManifestRead(BaseModel):
    """Everything that a job produced; it never changes."""

    model_config = ConfigDict(title="Manifest")

    object: Literal["manifest"] = "manifest"
    digest: str = Field(description="sha256 of the lines `<sha256>  <path>` in the order of the paths.")
    bytes: int
    files: list[FileRead]
    provenance: dict[str, Any] = Field(description="Digests of spec, model and datasets; versions; seed; attempt.")
