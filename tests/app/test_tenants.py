"""Somebody else's things do not exist, whatever one tries: every call of the OpenAPI document is tried."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.auth.repository import ensure_project
from app.auth.scopes import EVERY, Scope
from app.kit.ids import Prefix, new_id
from app.tables.jobs import Job
from app.tables.webhooks import Webhook, WebhookDelivery
from tests.app.conftest import Inputs, MakeKey, client_of

UNKNOWN: Final = "0" * 32
OPERATORS: Final = {"create_project", "list_projects", "get_project", "change_project", "delete_project"}
"""For `admin` alone; whoever has it knows all projects."""
ABOUT_NOBODY: Final = {"livez", "readyz", "list_methods"}

Ids = dict[str, dict[str, str]]


@pytest.fixture
def stranger(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller of another project who may do everything there."""
    scopes = [scope for scope in EVERY if scope is not Scope.admin]
    with client_of(service, make_key("theirs", scopes)) as client:
        yield client


@pytest.fixture
def ours(api: httpx.Client, inputs: Inputs, job: str, project: str, session: Session) -> Ids:
    """Where a path begins → what its parameters name of ours. Who adds a resource adds it here."""
    row = session.get_one(Job, job)
    row.manifest = {"digest": UNKNOWN * 2, "bytes": 0, "files": [], "provenance": {}}
    webhook = Webhook(id=new_id(Prefix.webhook), project_id=project, url="https://hooks.example.com/")
    session.add(webhook)
    session.commit()
    delivery = api.post(f"/v1/webhooks/{webhook.id}/test").json()["id"]
    assert session.get(WebhookDelivery, delivery) is not None
    key = api.get("/v1/whoami").json()["key"]["id"]
    plan = api.post("/v1/plans", json=inputs.body()).json()["id"]
    return {
        "jobs": {"id": job, "other": job, "path": "report.json"},
        "datasets": {"id": inputs.first},
        "models": {"id": inputs.model, "path": "config.json"},
        "plans": {"id": plan},
        "webhooks": {"id": webhook.id, "delivery": delivery},
        "projects": {"id": project, "key": key},
    }


@pytest.fixture
def operations(api: httpx.Client) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each, by its id."""
    document = api.get("/openapi.json").json()
    found = {}
    for path, item in document["paths"].items():
        for method, each in item.items():
            body = each.get("requestBody", {}).get("content", {})
            found[each["operationId"]] = (method.upper(), path, {**each, "send": _sent(body, document)})
    return found


def _sent(content: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """A body that the call takes, by the document's own examples."""
    if not content:
        return {}
    if "application/json" not in content:
        return {"content": b"x", "headers": {"Content-Type": next(iter(content))}}
    schema = content["application/json"]["schema"]
    while "examples" not in schema and ("$ref" in schema or "anyOf" in schema or "oneOf" in schema):
        inner = schema.get("anyOf") or schema.get("oneOf")
        name = (inner[0] if inner else schema)["$ref"].rsplit("/", 1)[-1]
        schema = document["components"]["schemas"][name]
    return {"json": (schema.get("examples") or [{}])[0]}


def _unlike(answer: httpx.Response) -> dict[str, Any]:
    """All of it but its id; of a HEAD, what it would be long."""
    if answer.request.method == "HEAD":
        return {"bytes": answer.headers.get("content-length")}
    return {**answer.json(), "request_id": 0}


def test_every_call_about_another_projects_things_answers_as_if_they_were_not(
    api: httpx.Client, stranger: httpx.Client, ours: Ids, operations: dict[str, Any], session: Session
) -> None:
    before = _rows(session)
    tried = 0
    for operation, (method, path, described) in operations.items():
        names = re.findall(r"\{(\w+)\}", path)
        if not names or operation in OPERATORS:
            continue
        mine = ours[path.split("/")[2]]  # a new resource: put one of ours into the fixture
        never = {name: _never(mine[name]) for name in names}
        for accept in ("*/*", "text/event-stream"):
            for query in _queries(described):
                call = {**described["send"], "params": query}
                call["headers"] = {**call.get("headers", {}), "Accept": accept}
                theirs = stranger.request(method, path.format(**mine), **call)
                assert theirs.status_code == 404, (operation, theirs.text)
                unknown = stranger.request(method, path.format(**never), **call)
                assert _unlike(theirs) == _unlike(unknown), operation
        tried += 1
    assert tried > 40
    head = stranger.head(f"/v1/jobs/{ours['jobs']['id']}/artifacts/report.json")
    assert (head.status_code, head.content) == (404, b"")
    assert _rows(session) == before
    assert api.get(f"/v1/jobs/{ours['jobs']['id']}").json()["state"] == "queued"


def _never(id: str) -> str:
    prefix, separator, _ = id.partition("_")
    return f"{prefix}_{UNKNOWN}" if separator else id


def _queries(described: dict[str, Any]) -> list[dict[str, str]]:
    """Without a query, and waiting where the call can."""
    known = {each["name"] for each in described.get("parameters", ()) if each["in"] == "query"}
    required = {"part": "1", "offset": "0"}
    needed = {
        each["name"]: required.get(each["name"], "x")
        for each in described.get("parameters", ())
        if each["in"] == "query" and each.get("required")
    }
    return [needed, {**needed, "wait": "20"}] if "wait" in known else [needed]


def _rows(session: Session) -> dict[str, int]:
    """How many rows each table has. What a call writes for itself is not ours."""
    session.rollback()
    tables = ("jobs", "models", "datasets", "plans", "webhooks", "webhook_deliveries", "api_keys", "hub_tokens")
    found = {name: session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}  # noqa: S608
    session.rollback()
    return found


Check = Callable[[httpx.Client, Inputs, Ids], None]


def _lists_nothing_of_ours(path: str, **params: str) -> Check:
    def check(stranger: httpx.Client, inputs: Inputs, ours: Ids) -> None:
        named = {name: ours[value]["id"] for name, value in params.items()}
        for query in ({}, *({name: id} for name, id in named.items())):
            answer = stranger.get(path, params=query)
            assert answer.status_code in (200, 404), answer.text
            for id in (id for kind in ours.values() for id in kind.values()):
                assert id not in answer.text, (path, query)

    return check


def _refuses_our_inputs(path: str) -> Check:
    def check(stranger: httpx.Client, inputs: Inputs, ours: Ids) -> None:
        asked = stranger.post(path, json=inputs.body())
        never = stranger.post(path, json=Inputs(*(f"x_{UNKNOWN}",) * 3).body())
        assert (asked.status_code, asked.json()["code"]) == (422, "input_refused")
        assert {each["detail"] for each in asked.json()["errors"]} == {
            each["detail"] for each in never.json()["errors"]
        }
        domains = [{"name": "more", "dataset": inputs.first}]
        job = {"continues": ours["jobs"]["id"], "domains": domains}
        unknown = {"continues": f"job_{UNKNOWN}", "domains": domains}
        theirs, nobodys = (stranger.post(path, json=body) for body in (job, unknown))
        assert theirs.status_code == 404
        shown = [re.sub(r"job_\w{32}", "it", str(_unlike(each))) for each in (theirs, nobodys)]
        assert shown[0] == shown[1]

    return check


def _says_nothing_of_ours(path: str) -> Check:
    return _lists_nothing_of_ours(path)


def _takes_no_ids(_: httpx.Client, __: Inputs, ___: Ids) -> None:
    """The request has no place for one."""


COLLECTIONS: Final[dict[str, Check]] = {
    "create_job": _refuses_our_inputs("/v1/jobs"),
    "create_plan": _refuses_our_inputs("/v1/plans"),
    "create_dataset": _takes_no_ids,
    "upload_dataset": _takes_no_ids,
    "create_model": _takes_no_ids,
    "create_webhook": _takes_no_ids,
    "list_jobs": _lists_nothing_of_ours("/v1/jobs", model="models", continues="jobs", lineage="jobs"),
    "list_datasets": _lists_nothing_of_ours("/v1/datasets"),
    "list_models": _lists_nothing_of_ours("/v1/models"),
    "list_webhooks": _lists_nothing_of_ours("/v1/webhooks"),
    "list_plans": _lists_nothing_of_ours("/v1/plans", model="models"),
    "list_audit_events": _lists_nothing_of_ours("/v1/audit", object_id="jobs"),
    "get_usage": _says_nothing_of_ours("/v1/usage"),
    "whoami": _says_nothing_of_ours("/v1/whoami"),
}
"""Calls without an id in their address, and what each may not tell. Who adds a call adds it here."""


def test_calls_without_an_id_are_all_thought_of(operations: dict[str, Any]) -> None:
    without = {operation for operation, (_, path, _) in operations.items() if "{" not in path}
    assert without - OPERATORS - ABOUT_NOBODY == set(COLLECTIONS)


@pytest.mark.parametrize("operation", COLLECTIONS)
def test_no_list_and_no_body_reaches_another_projects_things(
    operation: str, stranger: httpx.Client, inputs: Inputs, ours: Ids
) -> None:
    COLLECTIONS[operation](stranger, inputs, ours)


def test_the_log_of_another_project_is_404(stranger: httpx.Client, ours: Ids) -> None:
    theirs, never = (
        stranger.get("/v1/audit", params={"project": id}) for id in (ours["projects"]["id"], f"prj_{UNKNOWN}")
    )
    assert theirs.status_code == 404
    assert _unlike(theirs) == _unlike(never)


def test_operators_calls_are_403_to_all_others(
    stranger: httpx.Client, operations: dict[str, Any], ours: Ids
) -> None:
    for operation in OPERATORS:
        method, path, described = operations[operation]
        refused = stranger.request(method, path.format(**ours["projects"]), **described["send"])
        assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope"), operation


def test_ids_of_any_form_are_only_unknown(api: httpx.Client) -> None:
    for id in ("x", "job_", "JOB_" + UNKNOWN, "..%2f..", "%F0%9F%92%A9", "' OR 1=1 --", "%ff"):
        for kind in ("jobs", "datasets", "models", "plans", "webhooks"):
            assert api.get(f"/v1/{kind}/{id}").status_code == 404, id


def test_a_deleted_projects_name_opens_nothing(service: str, make_key: MakeKey, session: Session) -> None:
    """A new project of the same name is another one, and old keys stay dead."""
    old = make_key("short")
    admin = make_key("operators", [Scope.admin])
    with client_of(service, admin) as operator, client_of(service, old) as client:
        id = client.get("/v1/whoami").json()["project"]["id"]
        assert operator.delete(f"/v1/projects/{id}").status_code == 204
        assert operator.post("/v1/projects", json={"name": "short"}).status_code == 201
        assert client.get("/v1/whoami").status_code == 401
    assert ensure_project(session, "short").id != id
