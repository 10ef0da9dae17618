"""The protocol of the pipe: what an engine says is what its worker reads, and nothing else is read."""

import math
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from secateur.spec.records.history import JobWarning, Phase, Record
from secateur.spec.records.pipe import (
    Failed,
    Inspection,
    Measured,
    Message,
    Note,
    Output,
    OutputFile,
    Planned,
    Progress,
    Reading,
    read_message,
)
from tests.machines import gpu
from tests.records import (
    PLAN,
    block_result,
    evaluation,
    hello,
    matrix_record,
    stage_result,
    summary,
    task_begun,
    task_result,
)

WARNING = JobWarning(code="forgetting", message="über", data={"matrices": ["a", "b"], "share": 0.1})
SAID: list[Record] = [
    hello(),
    Progress(phase=Phase.pruning, fraction=1 / 3),
    evaluation(0),
    block_result(0, 1, [("weights", "a"), ("state", "b")]),
    stage_result(0, "law"),
    task_begun(),
    task_result(),
    Note(level="warning", message="a\nb", data={"nested": [{"x": None}]}),
    Output(files=[OutputFile(path="report.json", local="report.json")], summary=summary(WARNING)),
    Failed(code="x", cause="user", message="m", field="/model"),
    Reading(),
    Inspection(unused=["a"], warnings=[WARNING]),
    Measured(machine=gpu()),
    Planned(plan=PLAN),
]


def test_every_message_is_tried_here() -> None:
    assert {type(each) for each in SAID} == set(get_args(get_args(Message)[0]))


@pytest.mark.parametrize("said", SAID, ids=lambda each: type(each).__name__)
def test_a_message_is_read_as_it_was_said(said: Record) -> None:
    line = said.model_dump_json()
    assert "\n" not in line
    assert read_message(f"{line}\n".encode()) == said


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{",
        b'{"fraction": 0.5}',
        b'{"type": "end"}',
        b'{"type": ["note"]}',
        b'{"type": "note", "level": "warning", "message": 1}',
        b'{"type": "note", "level": "loud", "message": "x"}',
        b'{"type": "note", "level": "info", "message": "\\ud800"}',
        b'{"type": "note", "level": "info", "message": "x", "data": {"share": NaN}}',
        b'{"type": "progress", "phase": "dancing", "fraction": 0.5}',
        b'{"type": "progress", "phase": "pruning", "fraction": "0.5"}',
        b'{"type": "progress", "phase": "pruning", "fraction": Infinity}',
        b'{"type": "progress", "phase": "pruning", "fraction": 1e999}',
        b'{"type": "progress", "phase": "pruning", "fraction": 0.5, "block": -1}',
        b'{"type": "progress", "phase": "pruning", "fraction": 0.5, "block": 4294967296}',
        b'{"type": "note", "level": "info", "message": "x", "data": ' + b"[" * 10_000,
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        read_message(line)


def test_a_refusal_is_short_whatever_was_said() -> None:
    block = b'{"type": "block", "stage": 0, "block": 0, "files": [], "sensitivity": [], "records": [%s]}'
    for line in (block % b",".join([b"{}"] * 10_000), b'{"type": "%s"}' % (b"x" * 100_000)):
        with pytest.raises(ValueError, match="not a message") as refused:
            read_message(line)
        assert len(str(refused.value)) < 3_000


@pytest.mark.parametrize(
    "figures",
    [
        {"relative_error": math.nan},
        {"sparsity": math.inf},
        {"notes": {"nested": [math.nan]}},
        {"notes": {"not": object()}},
        {"zeros": 2.5},
        {"matrix": "m" * 301},
    ],
)
def test_what_the_pipe_cannot_say_fails_where_it_is_made(figures: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        matrix_record(**{"matrix": "m"} | figures)


def test_words_of_a_file_are_said_whatever_they_are() -> None:
    """JSON in a model's file can have half a surrogate pair."""
    for said in (
        Failed(code="x", cause="user", message="\ud800 is no type", field="/\ud800"),
        Note(level="info", message="\udc00", data={"\ud800": ["\ud800"]}),
    ):
        assert "\ud800" not in repr(read_message(said.model_dump_json().encode()))
