"""Which files a model may be uploaded as: plain data by an allow-list of names; the intake reads no others."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from app.kit.fields import PLAIN_NAME
from secateur.spec.strict import Strict
from secateur.spec.words import shaped

MOST_FILES: Final = 1000
_ENDINGS: Final = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".rst", ".pdf")
_BARE: Final = re.compile(r"[A-Z][A-Z_-]*")
"""Terms: LICENSE, NOTICE, USE_POLICY."""
_SHA256: Final = shaped(r"^[0-9a-f]{64}$", "64 hexadecimal digits in lower case")


def _allowed(path: str) -> str:
    if path.endswith(_ENDINGS) or _BARE.fullmatch(path):
        return path
    if PurePosixPath(path).suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"):
        raise ValueError("is pickled, which can run code; save the model with save_pretrained, as safetensors")
    raise ValueError(
        f"is no file of a safetensors model; allowed are {', '.join(_ENDINGS)} and terms like LICENSE"
    )


FileName = Annotated[
    str,
    StringConstraints(max_length=200, pattern=PLAIN_NAME),
    AfterValidator(_allowed),
    Field(description="A plain name, without a folder.", examples=["model.safetensors"]),
]


class UploadFile(Strict):
    """A file that will be sent."""

    path: FileName
    bytes: int = Field(ge=0, le=2**44)
    sha256: str = Field(pattern=_SHA256, description="Of the whole file, in hexadecimal.")
