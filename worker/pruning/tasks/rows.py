"""Questions of several choices, as their owner has uploaded them: one JSON object a line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from secateur.documents import read_row
from worker.pruning.errors import SpecError, UserError
from worker.pruning.request import PruningJob

MOST_ROWS: Final = 100_000
MOST_CHOICES: Final = 64
MOST_INPUTS: Final = 400_000
"""Choices of all rows: the harness holds a request for each, half a kilobyte or more."""
MOST_BYTES: Final = 2**28
"""Of the file, whose rows are held at once."""
_FORM: Final = '{"question": "…", "choices": ["…", "…"], "answer": 0}'


def read_questions(
    job: PruningJob, number: int, longest: int, count: Callable[[str], int]
) -> list[dict[str, Any]]:
    """The rows of one of the job's tasks that has a dataset. longest: tokens of an input. count: those of a text.

    Raises UserError for rows that cannot be asked.
    """

    def check(choice: str) -> None:
        # No token is shorter than a byte, but one may be added for the blank before it.
        if len(choice.encode()) >= longest and (found := count(f" {choice}")) > longest:
            raise ValueError(f"has a choice of {found} tokens, and the model reads {longest} at once; shorten it")

    task = job.tasks[number]
    rows = read_rows(job.texts[task.dataset or ""].path, f"/tasks/{number}/dataset", check)
    if (task.few_shot or 0) >= len(rows):
        message = f"must be less than the {len(rows)} rows of the dataset, of which it takes others"
        raise SpecError(f"/tasks/{number}/few_shot", message)
    return rows


def read_rows(path: Path, field: str, check: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """`question`, `choices` and `answer` of every row. field: the dataset's place in the request. check: called
    with every choice; raises ValueError as `_read` does.

    Raises UserError, which names the first bad line.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        message = f"the dataset has {size / 1e6:.0f} MB; send questions of {MOST_BYTES / 1e6:.0f} MB at the most"
        raise UserError("invalid_questions", message, field)
    found = list(_rows(path, field, check))
    if not found:
        raise UserError("invalid_questions", f"the dataset has no line; write one {_FORM} a line", field)
    return found


def _rows(path: Path, field: str, check: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    count = inputs = 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            count += 1
            try:
                if count > MOST_ROWS:
                    raise ValueError(f"is one question too many: send {MOST_ROWS:,} at the most")
                row = _read(line)
                if (inputs := inputs + len(row["choices"])) > MOST_INPUTS:
                    raise ValueError(f"has a choice too many: send {MOST_INPUTS:,} in all at the most")
                for choice in row["choices"]:
                    check(choice)
                yield row
            except ValueError as error:
                raise UserError("invalid_questions", f"line {number} {error}", field) from None


def _read(line: bytes) -> dict[str, Any]:
    """Raises ValueError; its words follow "line 7": the fault and the fix."""
    row = read_row(line)
    question, choices, answer = (row.get(name) for name in ("question", "choices", "answer"))
    if not _is_text(question):
        raise ValueError(f"has no text under `question`; write {_FORM}")
    if not isinstance(choices, list) or not 2 <= len(choices) <= MOST_CHOICES or not all(map(_is_text, choices)):
        raise ValueError(f"needs 2 to {MOST_CHOICES} texts under `choices`; write {_FORM}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        last = len(choices) - 1
        raise ValueError(
            f"has {json.dumps(answer)[:40]} under `answer`; write the right choice's place, 0 to {last}"
        )
    return {"question": question, "choices": choices, "answer": answer}


def _is_text(value: Any) -> bool:
    """Some sign that is not blank, and nothing that no tokenizer takes."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
