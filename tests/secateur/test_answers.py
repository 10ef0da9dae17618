"""The types of answers: those of the API as it is, and known to who uses the client."""

import re
from pathlib import Path

import pytest
from mypy import api

from app.export_answers import TARGET, formatted, source
from app.export_openapi import document

PROGRAM = """
from secateur import AsyncClient, Client

def blocking(client: Client) -> None:
    reveal_type(client.job("job_1")["state"])
    reveal_type([row["relative_error"] for row in client.matrices("job_1")])
    reveal_type(client.webhooks.add("https://a.example")["secret"])
    for event in client.stream("job_1"):
        if event["type"] == "transition":
            reveal_type(event["data"]["to"])
    client.job("job_1")["stat"]
    client.job(1)

async def awaited(client: AsyncClient) -> None:
    reveal_type((await client.job("job_1"))["state"])
    reveal_type([row["relative_error"] async for row in client.matrices("job_1")])
    reveal_type((await client.webhooks.add("https://a.example"))["secret"])
    client.job("job_1")["state"]
"""
STATES = ("queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled")
STATE = " | ".join(f"Literal['{state}']" for state in STATES)
REVEALED = [STATE, "list[float | None]", "str"]


def test_the_types_are_those_of_the_document() -> None:
    assert TARGET.read_text() == formatted(source(document())), "python -m app.export_answers"


def test_a_program_over_the_clients_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the types of other packages, which do not matter here and take long to read."""
    monkeypatch.setenv("MYPYPATH", str(TARGET.parents[1]))
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    options = ("--config-file=", "--follow-imports=silent", "--no-site-packages", "--ignore-missing-imports")
    out, _, code = api.run([*options, f"--cache-dir={tmp_path}", str(file)])
    assert code == 1
    assert re.findall(r'Revealed type is "(.*)"', out) == [*REVEALED, STATE, *REVEALED]
    errors = [line for line in out.splitlines() if ": error:" in line]
    assert len(errors) == 3, out
    assert '"stat"' in errors[0]
    assert 'incompatible type "int"' in errors[1]
    assert "Coroutine" in errors[2]
