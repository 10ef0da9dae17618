"""What tables show: nothing that names a row is ever cut, and every phase has a name."""

import io
from typing import Any

import pytest
from rich.console import Console

from secateur.cli import show
from tests.secateur.conftest import Reply, Run, ScriptedServer, job_document

JOB = "job_" + "0198c0ffee" * 3 + "ab"
MODEL = "mdl_" + "0198c0ffee" * 3 + "cd"
MATRIX = "model.layers.{}.self_attn.some_very_long_submodule.q_proj.weight"


def _matrices() -> Any:
    found = show.table(">stage", "domain", ">block", "matrix", ">sparsity")
    for block in range(3):
        found.add_row("0", "law", str(block), MATRIX.format(block), "50.0%")
    return found


@pytest.mark.parametrize(("terminal", "width"), [(False, 20), (True, 20), (True, 80), (True, 300)])
def test_names_are_whole_in_any_width(terminal: bool, width: int) -> None:
    said = io.StringIO()
    show.print_table(Console(file=said, force_terminal=terminal, width=width, color_system=None), _matrices())
    assert all(MATRIX.format(block) in said.getvalue() for block in range(3))
    assert "…" not in said.getvalue()
    assert len(said.getvalue().splitlines()) == 4


def test_prose_is_folded_where_the_terminal_is_narrow_and_loses_nothing() -> None:
    said = io.StringIO()
    found = show.table("id", "~error")
    found.add_row(JOB, "no heartbeat came for a whole minute")
    show.print_table(Console(file=said, force_terminal=True, width=60, color_system=None), found)
    lines = said.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert [word for line in lines[1:] for word in line.split()] == [
        JOB,
        *["no", "heartbeat", "came", "for", "a", "whole", "minute"],
    ]


def test_ids_of_a_list_can_be_copied(run: Run, scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.script = [Reply.json({"data": [job_document("queued", id=JOB, model=MODEL)], "next_cursor": None})]
    assert {JOB, MODEL} <= set(run("ls")[1].split())


OF_LAW = {"blocks": 30, "stage": 1, "stages": 2, "domain": "law"}


@pytest.mark.parametrize(
    ("phase", "progress", "said"),
    [
        ("staging", None, "fetching model and texts"),
        ("staging", {"phase": "pruning", **OF_LAW}, "fetching model and texts"),
        ("evaluating", {"block": 0, "blocks": 30}, "evaluating the dense model · block 1/30"),
        ("evaluating", {"block": 30, **OF_LAW}, "evaluating · law (2/2) · block 30/30"),
        ("surveying", {"block": None, **OF_LAW}, "surveying the dense model · law (2/2)"),
        ("pruning", {"block": 4, **OF_LAW}, "pruning · law (2/2) · block 5/30"),
        ("tuning", OF_LAW, "tuning the whole model · law (2/2)"),
        ("publishing", {"blocks": 30, "block": 30}, "publishing the result"),
        ("of a newer server", {}, "of a newer server"),
    ],
)
def test_every_phase_has_its_name(phase: str, progress: Any, said: str) -> None:
    told = None if progress is None else {"phase": phase, **progress}
    assert show.progress_text(job_document("running", phase=phase, progress=told)) == said


def test_a_lineages_lines_are_whole(run: Run, scripted: ScriptedServer) -> None:
    jobs = [
        {
            "id": JOB,
            "continues": None,
            "state": "succeeded",
            "first_stage": 0,
            "domains": [f"a-domain-with-a-name-{number}" for number in range(12)],
            "created_at": "2026-01-01T00:00:00Z",
        }
    ]
    scripted.script = [Reply.json({"root": JOB, "path": jobs, "jobs": jobs, "total": 1})]
    (line,) = run("lineage", JOB)[1].splitlines()
    assert JOB in line
    assert "11. a-domain-with-a-name-11" in line
