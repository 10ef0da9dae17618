"""The calls that docs/api.md shows by curl do what the page says."""

import json
import os
import subprocess
from collections.abc import Callable

import httpx
import pytest

from app.auth.scopes import Scope
from tests.app.conftest import MakeKey, client_of
from tests.snippets import snippet

Shell = Callable[..., str]


@pytest.fixture
def shell(service: str) -> Shell:
    """Runs lines with the service's address and what else they name: what they print."""

    def run(lines: str, **names: str) -> str:
        given = os.environ | {"URL": service, "NO_PROXY": "*"} | names
        command = ["bash", "-euo", "pipefail", "-c", lines]
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_platform_sets_up_a_tenant_once(service: str, shell: Shell, make_key: MakeKey) -> None:
    lines, admin = snippet("api.md", "Projects and keys"), make_key("operators", [Scope.admin])
    key = json.loads(shell(lines, ADMIN=admin))
    assert json.loads(shell(lines, ADMIN=admin)) == key
    with client_of(service, key["secret"]) as client:
        found = client.get("/v1/whoami").json()
    assert (found["project"]["name"], found["key"]["name"]) == ("search", "ci")


def test_the_stream_of_a_finished_job_ends(api: httpx.Client, job: str, shell: Shell) -> None:
    assert api.post(f"/v1/jobs/{job}/cancel").is_success
    key = api.headers["authorization"].removeprefix("Bearer ")
    said = shell(snippet("api.md", "Streams"), KEY=key, JOB=job)
    types = [line.removeprefix("event: ") for line in said.splitlines() if line.startswith("event: ")]
    assert (types[0], types[-1]) == ("created", "transition")
