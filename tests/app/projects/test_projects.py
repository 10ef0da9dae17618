"""Projects over HTTP: an operator manages all of them, and reads no project's jobs."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from app.auth.scopes import EVERY, Scope
from app.settings import Settings
from app.tables.auth import Project
from tests.app.conftest import Inputs, MakeKey, client_of, running


@pytest.fixture
def operator(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller with nothing but `admin`, of a project of its own."""
    with client_of(service, make_key("operators", [Scope.admin])) as client:
        yield client


def create(operator: httpx.Client, name: str, **more: Any) -> str:
    made = operator.post("/v1/projects", json={"name": name, **more})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/projects/{made.json()['id']}"
    return str(made.json()["id"])


def key_of(operator: httpx.Client, project: str, *scopes: str) -> str:
    made = operator.post(f"/v1/projects/{project}/keys", json={"name": "k", "scopes": list(scopes)})
    assert made.status_code == 201, made.text
    return str(made.json()["secret"])


def test_a_platform_is_set_up_over_http_alone(operator: httpx.Client, service: str) -> None:
    project = create(operator, "search")
    with client_of(service, key_of(operator, project, "jobs:read", "data:read")) as client:
        me = client.get("/v1/whoami").json()
        assert me["project"] == {"id": project, "name": "search"}
        assert me["key"]["scopes"] == ["data:read", "jobs:read"]
        assert me["key"]["state"] == "alive"
        assert client.get("/v1/jobs").json()["data"] == []
        assert client.post("/v1/models", json={}).status_code == 403
    assert [row["name"] for row in operator.get("/v1/projects").json()["data"]] == ["search", "operators"]
    changed = operator.patch(f"/v1/projects/{project}", json={"name": "find"})
    assert changed.json() == {**operator.get(f"/v1/projects/{project}").json(), "name": "find"}


def test_an_operator_reads_no_projects_jobs_nor_data(operator: httpx.Client, inputs: Inputs, job: str) -> None:
    for path in (f"/v1/jobs/{job}", "/v1/jobs", f"/v1/models/{inputs.model}", f"/v1/datasets/{inputs.first}"):
        refused = operator.get(path)
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")


def test_admin_with_everything_still_sees_its_own_projects_jobs_alone(
    service: str, make_key: MakeKey, job: str
) -> None:
    with client_of(service, make_key("operators", EVERY)) as client:
        assert client.get(f"/v1/jobs/{job}").status_code == 404
        assert client.get("/v1/jobs").json()["data"] == []


def test_only_operators_manage_projects(api: httpx.Client, service: str, make_key: MakeKey, project: str) -> None:
    every_other = [scope for scope in EVERY if scope is not Scope.admin]
    with client_of(service, make_key(scopes=every_other)) as client:
        calls = [("POST", "/v1/projects"), ("GET", "/v1/projects")]
        calls += [(method, f"/v1/projects/{project}") for method in ("GET", "PATCH", "DELETE")]
        for method, path in calls:
            refused = client.request(method, path, json={} if method in ("POST", "PATCH") else None)
            assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope"), path


def test_names_are_taken_once(operator: httpx.Client) -> None:
    create(operator, "search")
    again = operator.post("/v1/projects", json={"name": "search"})
    assert (again.status_code, again.json()["code"]) == (409, "project_exists")
    other = create(operator, "other")
    renamed = operator.patch(f"/v1/projects/{other}", json={"name": "search"})
    assert (renamed.status_code, renamed.json()["code"]) == (409, "project_exists")
    assert operator.patch(f"/v1/projects/{other}", json={"name": "other"}).status_code == 200


def test_a_disabled_projects_keys_do_not_work(
    operator: httpx.Client, api: httpx.Client, project: str, job: str
) -> None:
    assert operator.patch(f"/v1/projects/{project}", json={"disabled": True}).json()["disabled"]
    assert api.get("/v1/jobs").status_code == 401
    assert operator.patch(f"/v1/projects/{project}", json={"disabled": False}).status_code == 200
    assert api.get(f"/v1/jobs/{job}").json()["state"] == "queued"


def test_only_an_empty_project_is_deleted(
    operator: httpx.Client, api: httpx.Client, project: str, job: str
) -> None:
    refused = operator.delete(f"/v1/projects/{project}")
    assert (refused.status_code, refused.json()["code"]) == (409, "project_not_empty")
    assert "jobs, models, datasets" in refused.json()["detail"]
    assert api.get(f"/v1/jobs/{job}").status_code == 200
    empty = create(operator, "empty")
    key_of(operator, empty, "jobs:read")
    assert operator.delete(f"/v1/projects/{empty}").status_code == 204
    assert operator.get(f"/v1/projects/{empty}").status_code == 404


def test_model_roots_lie_below_the_operators_folder(
    settings: Settings, make_key: MakeKey, tmp_path: Path, session: Session
) -> None:
    for folder in ("own/a", "own/b", "elsewhere"):
        (tmp_path / folder / "m").mkdir(parents=True)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "elsewhere")
    own = settings.model_copy(update={"project_roots": tmp_path / "own"})
    source = {"name": "m", "source": {"type": "folder", "path": "m"}}
    keys = [make_key("operators", [Scope.admin]), make_key("a"), make_key("b")]
    with running(own) as url, client_of(url, keys[0]) as operator, client_of(url, keys[1]) as a:
        mine = a.get("/v1/whoami").json()["project"]["id"]
        for root in ("link", "nothing", "../elsewhere", "/etc", "a/../../elsewhere"):
            refused = operator.patch(f"/v1/projects/{mine}", json={"model_roots": [root]})
            assert refused.status_code == 422, root
            assert refused.json()["errors"][0]["pointer"] == "/model_roots/0"
        assert a.post("/v1/models", json=source).status_code == 422
        assert operator.patch(f"/v1/projects/{mine}", json={"model_roots": ["a"]}).json()["model_roots"] == ["a"]
        assert a.post("/v1/models", json=source).status_code == 202
        with client_of(url, keys[2]) as b:
            theirs, never = (
                b.post("/v1/models", json={"name": "m", "source": {"type": "folder", "path": path}})
                for path in ("m", "nothing")
            )
            assert theirs.status_code == never.status_code == 422
            assert {**theirs.json(), "request_id": 0} == {**never.json(), "request_id": 0}


def test_without_a_folder_of_the_operators_no_project_gets_roots(operator: httpx.Client, project: str) -> None:
    refused = operator.patch(f"/v1/projects/{project}", json={"model_roots": ["a"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "root_refused")


def test_an_operator_sets_a_projects_share_and_quotas(
    operator: httpx.Client, api: httpx.Client, project: str, inputs: Inputs
) -> None:
    assert operator.get(f"/v1/projects/{project}").json()["quotas"] == {}
    changed = operator.patch(f"/v1/projects/{project}", json={"share": 2.5, "quotas": {"queued_jobs": 1}})
    assert (changed.json()["share"], changed.json()["quotas"]) == (2.5, {"queued_jobs": 1})
    assert [api.post("/v1/jobs", json=inputs.body()).status_code for _ in range(2)] == [201, 429]
    changed = operator.patch(f"/v1/projects/{project}", json={"quotas": {"queued_jobs": None, "uploads": 3}})
    assert changed.json()["quotas"] == {"queued_jobs": None, "uploads": 3}
    assert changed.json()["share"] == 2.5
    assert operator.get(f"/v1/projects/{project}").json() == changed.json()
    assert api.post("/v1/jobs", json=inputs.body()).status_code == 201
    assert api.get("/v1/usage").json()["quotas"]["queued_jobs"]["limit"] is None


@pytest.mark.parametrize(
    "body",
    [{"quotas": {"bogus": 1}}, {"quotas": {"uploads": -1}}, {"quotas": {"uploads": "1"}}, {"share": 0}],
)
def test_quotas_that_are_none_are_refused(operator: httpx.Client, project: str, body: dict[str, Any]) -> None:
    refused = operator.patch(f"/v1/projects/{project}", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"].startswith(f"/{next(iter(body))}")


def test_a_project_cannot_raise_its_own_quotas(api: httpx.Client, project: str) -> None:
    assert api.patch(f"/v1/projects/{project}", json={"quotas": {"uploads": 99}}).status_code == 403


def test_what_is_under_way_when_its_project_is_deleted_is_refused_like_its_key(
    api: httpx.Client, project: str, session: Session
) -> None:
    session.execute(delete(Project).where(Project.id == project))
    bodies = {
        "/v1/models": {"name": "m", "source": {"type": "hub", "id": "team/model"}},
        "/v1/webhooks": {"url": "https://hooks.example.com/"},
    }
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(api.post, path, json=body) for path, body in bodies.items()]
        while session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")) < 2:
            time.sleep(0.02)
        session.commit()
        answers = [each.result() for each in waiting]
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(401, "unauthorized")] * 2


def test_nobody_locks_himself_out(operator: httpx.Client) -> None:
    own = operator.get("/v1/whoami").json()["project"]["id"]
    refused = operator.patch(f"/v1/projects/{own}", json={"disabled": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "own_project")
    assert operator.get("/v1/projects").status_code == 200


def test_a_share_is_no_number_that_breaks_the_order(operator: httpx.Client) -> None:
    project = create(operator, "tiny share")
    assert operator.patch(f"/v1/projects/{project}", json={"share": 1e-308}).status_code == 422
