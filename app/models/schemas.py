"""Models as callers register and see them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.kit.fields import HubId, Name, Revision
from app.kit.refs import InputError
from app.models.references import RootPath
from app.tables.datasets import IntakeState
from secateur.spec.records.history import JobWarning
from secateur.spec.strict import Strict


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


Source = Annotated[FolderSource | HubSource | GgufSource, Field(discriminator="type")]


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
            ]
        }
    )

    name: Name
    source: Source


class ModelRead(BaseModel):
    """A dense model. What intake finds out is null until it is ready."""

    model_config = ConfigDict(from_attributes=True, title="Model")

    id: str
    object: Literal["model"] = "model"
    name: str
    state: IntakeState
    source: dict[str, Any]
    architecture: str | None
    model_type: str | None
    dtype: str | None
    parameters: int | None
    blocks: int | None
    bytes: int | None
    digest: str | None
    warnings: list[JobWarning] = Field(description="What intake found that its owner should know.")
    error: InputError | None
    created_at: datetime
    updated_at: datetime
