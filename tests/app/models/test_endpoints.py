from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models.references import may_exist
from app.settings import Settings
from app.tables.models import Model
from app.tables.outbox import OutboxMessage
from app.tables.tasks import Task
from tests.app.conftest import Inputs, client_of, running


@pytest.fixture
def root(settings: Settings, tmp_path: Path) -> Path:
    """A model root with a folder, a GGUF file and links that lead out of it."""
    root = settings.model_roots[0]
    (root / "team" / "tiny").mkdir(parents=True)
    (root / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "secret").mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "inside").symlink_to(root / "team")
    return root


def register(api: httpx.Client, source: dict[str, object]) -> httpx.Response:
    return api.post("/v1/models", json={"name": "m", "source": source})


def test_each_kind_of_source_becomes_a_task(api: httpx.Client, root: Path, session: Session) -> None:
    for source, stored in [
        ({"type": "folder", "path": "team/tiny"}, {}),
        ({"type": "folder", "path": "inside/tiny"}, {}),
        ({"type": "gguf", "path": "tiny.gguf"}, {"dtype": "bfloat16"}),
        ({"type": "hub", "id": "HuggingFaceTB/SmolLM2-135M"}, {"revision": "main"}),
        ({"type": "hub", "id": "gpt2", "revision": "refs/pr/1"}, {}),
    ]:
        response = register(api, source)
        assert response.status_code == 202, response.text
        found = response.json()
        assert (found["state"], found["source"], found["digest"]) == ("pending", {**source, **stored}, None)
        assert api.get(response.headers["location"]).json() == found
        task = session.scalars(select(Task).where(Task.subject_id == found["id"])).one()
        assert task.kind == "model_intake"
        assert session.scalars(select(OutboxMessage.queue).where(OutboxMessage.hint == task.id)).one() == "cpu"


def test_paths_are_relative_plain_and_below_a_root(api: httpx.Client, root: Path, session: Session) -> None:
    outside = ["out", "out/../team", "absent", "team/absent"]
    forms = [
        "/etc/passwd",
        "../x",
        "team/../../x",
        "./team",
        "~",
        "~root/x",
        "file:///etc",
        "http://169.254.169.254/",
    ]
    forms += ["team//tiny", "team/", "", ".hidden", "a\\b", "%2e%2e/x", "․․/x", "．．/x", "team\n", "x" * 501]
    for path in [*outside, *forms]:
        response = register(api, {"type": "folder", "path": path})
        assert response.status_code == 422, path
        assert response.json()["errors"][0]["pointer"] == "/source/path", path
        assert str(root) not in response.text
    # What is outside looks like what is not there.
    answers = [register(api, {"type": "folder", "path": path}).json()["detail"] for path in ("out", "absent")]
    assert answers[0] == answers[1]
    assert session.scalars(select(Model)).all() == []


def test_other_nonsense_is_refused(api: httpx.Client, root: Path) -> None:
    for source in [
        {"type": "pickle", "path": "team"},
        {"type": "gguf", "path": "team/tiny"},
        {"type": "gguf", "path": "../tiny.gguf"},
        {"type": "gguf", "path": "tiny.gguf", "dtype": "int8"},
        {"type": "hub", "id": "a/b", "revision": "--upload-pack=x"},
        {"type": "hub", "id": "a/b", "trust_remote_code": True},
        {"type": "hub", "id": "http://127.0.0.1:6379/"},
        {"type": "hub"},
    ]:
        assert register(api, source).status_code == 422, source


def test_a_kind_of_source_that_is_none_is_told_so_at_its_field(api: httpx.Client, root: Path) -> None:
    for source in ({"type": "pickle", "path": "team"}, {"type": None}, {}):
        answer = register(api, source)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/source/type"]


def test_a_root_that_is_not_mounted_here_is_left_to_the_intake(root: Path, tmp_path: Path) -> None:
    assert not may_exist([root], "absent")
    assert may_exist([root, tmp_path / "elsewhere"], "absent")


def test_without_roots_no_path_is_taken(settings: Settings, api: httpx.Client) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    with running(settings.model_copy(update={"model_roots": ()})) as url, client_of(url, key) as client:
        assert register(client, {"type": "folder", "path": "team"}).json()["code"] == "source_refused"
        assert register(client, {"type": "hub", "id": "gpt2"}).status_code == 202


def test_a_model_goes_only_without_jobs(api: httpx.Client, inputs: Inputs) -> None:
    other = register(api, {"type": "hub", "id": "gpt2"}).json()["id"]
    job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
    refused = api.delete(f"/v1/models/{inputs.model}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    assert job in refused.json()["detail"]
    assert [row["id"] for row in api.get("/v1/models").json()["data"]] == [other, inputs.model]
    assert api.delete(f"/v1/models/{other}").status_code == 204
    assert api.get(f"/v1/models/{other}").status_code == 404
