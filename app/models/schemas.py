"""Models as callers register and see them."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.kit.fields import HubId, Name, Revision
from app.kit.refs import InputError
from app.models.references import RootPath
from app.models.upload_files import MOST_FILES, UploadFile
from app.tables.models import ModelState
from secateur.spec.records.history import JobWarning
from secateur.spec.strict import Refusal, Strict, refuse


class FolderSource(Strict):
    """A Hugging Face folder with safetensors files."""

    type: Literal["folder"]
    path: RootPath


class HubSource(Strict):
    """A repository of the hub; its revision is resolved to a commit once."""

    type: Literal["hub"]
    id: HubId
    revision: Revision = "main"


def _gguf(path: str) -> str:
    if not path.lower().endswith(".gguf"):
        raise ValueError("must name a .gguf file")
    return path


class GgufSource(Strict):
    """A GGUF file, converted once to safetensors of the named type."""

    type: Literal["gguf"]
    path: Annotated[RootPath, AfterValidator(_gguf)]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class UploadSource(Strict):
    """A Hugging Face folder with safetensors files, which the caller will send file by file."""

    type: Literal["upload"]
    files: list[UploadFile] = Field(min_length=1, max_length=MOST_FILES)

    @model_validator(mode="after")
    def _a_model(self) -> Self:
        names = [file.path for file in self.files]
        repeated = [number for number, name in enumerate(names) if name in names[:number]]
        message = "is another file's name, too; send each file once"
        refuse(self, (Refusal(("files", number, "path"), message, names[number]) for number in repeated))
        if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
            message = (
                "must have config.json and at least one .safetensors file: the folder that save_pretrained writes"
            )
            refuse(self, [Refusal(("files",), message)])
        return self


Source = Annotated[FolderSource | HubSource | GgufSource | UploadSource, Field(discriminator="type")]


class ModelCreate(Strict):
    """Register a model."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "smollm2",
                    "source": {"type": "hub", "id": "HuggingFaceTB/SmolLM2-135M", "revision": "main"},
                },
                {"name": "mine", "source": {"type": "folder", "path": "team/my-model"}},
                {"name": "tiny", "source": {"type": "gguf", "path": "tiny.Q8_0.gguf", "dtype": "bfloat16"}},
                {
                    "name": "private",
                    "source": {
                        "type": "upload",
                        "files": [
                            {"path": "config.json", "bytes": 700, "sha256": "0" * 64},
                            {"path": "model.safetensors", "bytes": 269060552, "sha256": "1" * 64},
                        ],
                    },
                },
            ]
        }
    )

    name: Name
    source: Source


class ModelLicense(BaseModel):
    """The licence that a model's card names."""

    id: str = Field(description="The hub's identifier, such as `apache-2.0`, `llama3.2` or `other`.")
    name: str | None
    link: str | None


class ModelRead(BaseModel):
    """A dense model. What intake finds out is null until it is ready."""

    model_config = ConfigDict(from_attributes=True, title="Model")

    id: str
    object: Literal["model"] = "model"
    name: str
    state: ModelState
    source: dict[str, Any]
    architecture: str | None
    model_type: str | None
    dtype: str | None
    parameters: int | None
    blocks: int | None
    bytes: int | None
    digest: str | None
    license: ModelLicense | None = Field(
        description="As the model's card (the front matter of README.md) has it; null without one, and of a model "
        "that was taken in before this was recorded."
    )
    warnings: list[JobWarning] = Field(description="What intake found that its owner should know.")
    error: InputError | None
    created_at: datetime
    updated_at: datetime


class UploadedFileRead(BaseModel):
    """One file of a model that is being uploaded."""

    path: str
    bytes: int
    sha256: str
    received: int = Field(description="Bytes that have arrived; the next ones are sent from there.")


class UploadedFiles(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[UploadedFileRead]


class PresignedPut(BaseModel):
    """Where the whole file can be sent by one PUT, without a key of ours."""

    method: Literal["PUT"] = "PUT"
    url: str
    expires_at: datetime
