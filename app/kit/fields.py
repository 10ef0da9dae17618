"""Kinds of text that requests share."""

from typing import Annotated, Final

from fastapi import Path
from pydantic import AfterValidator, Field, StringConstraints

from secateur.spec.words import shaped

PLAIN_NAME: Final = shaped(
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
    "a name of letters, digits, `_`, `.` and `-` that begins with none of the last two",
)
VISIBLE: Final = shaped(r"^[\x21-\x7e]+$", "printable ASCII without blanks")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


_REPO_PART = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"

Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_printable)
]
"""What people call a thing; need not be unique."""

HubId = Annotated[
    str,
    StringConstraints(
        max_length=193,
        pattern=shaped(rf"^{_REPO_PART}(/{_REPO_PART})?$", "`name` or `owner/name`, as the hub has it"),
    ),
    Field(description="A repository of the hub: `name` or `owner/name`.", examples=["HuggingFaceTB/SmolLM2-135M"]),
]
Revision = Annotated[
    str,
    StringConstraints(
        max_length=200,
        pattern=shaped(r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$", "a branch, a tag or a commit"),
    ),
    Field(description="A branch, a tag or a commit."),
]


DatasetId = Annotated[str, Path(description="`ds_…`", max_length=100)]
ModelId = Annotated[str, Path(description="`mdl_…`", max_length=100)]
JobId = Annotated[str, Path(description="`job_…`", max_length=100)]
WebhookId = Annotated[str, Path(description="`whk_…`", max_length=100)]
DeliveryId = Annotated[str, Path(description="`msg_…`", max_length=100)]
