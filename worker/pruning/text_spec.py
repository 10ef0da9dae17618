"""A text that a request points at."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.pruning.fields import Fields


class Format(StrEnum):
    txt = "txt"
    jsonl = "jsonl"


class Documents(StrEnum):
    """How windows are cut out of a text with several documents; a txt is a single one."""

    joined = "joined"  # with one blank between them: a window may lie over several
    separate = "separate"  # each by itself: a window lies in one


@dataclass(frozen=True)
class Text:
    path: Path
    format: Format
    text_field: str

    @classmethod
    def read(cls, fields: Fields) -> "Text":
        return cls(
            path=Path(fields.text("path")),
            format=fields.choice("format", Format, Format.txt),
            text_field=fields.text("text_field", "text"),
        )
