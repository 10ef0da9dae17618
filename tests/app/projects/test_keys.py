"""Keys over HTTP: shown once, never more than their maker has, rotated without a gap."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.auth.scopes import EVERY, Scope
from app.db.clock import from_now
from app.tables.auth import ApiKey
from tests.app.conftest import MakeKey, client_of

SOON = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture
def keeper(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller who may make keys of `ours`, and read jobs."""
    with client_of(service, make_key(scopes=[Scope.keys_write, Scope.jobs_read])) as client:
        yield client


@pytest.fixture
def operator(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    with client_of(service, make_key("operators", [Scope.admin])) as client:
        yield client


@pytest.fixture
def keys(project: str) -> str:
    """Address of the keys of `ours`."""
    return f"/v1/projects/{project}/keys"


def create(client: httpx.Client, keys: str, *scopes: str, **more: Any) -> dict[str, Any]:
    made = client.post(keys, json={"name": "ci", "scopes": list(scopes), **more})
    assert made.status_code == 201, made.text
    return dict(made.json())


def alive(service: str, secret: str) -> bool:
    with client_of(service, secret) as client:
        return client.get("/v1/whoami").status_code == 200


def test_a_secret_is_shown_once(keeper: httpx.Client, keys: str, service: str) -> None:
    made = create(keeper, keys, "jobs:read", expires_at=SOON)
    assert made["secret"].startswith(made["hint"])
    assert made["created_by"] == keeper.get("/v1/whoami").json()["key"]["id"]
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert keeper.get(f"{keys}/{made['id']}").json() == shown
    assert alive(service, made["secret"])
    listed = keeper.get(keys)
    assert made["secret"] not in listed.text
    row = next(row for row in listed.json()["data"] if row["id"] == made["id"])
    assert row["last_used_at"] is not None


def test_a_key_gives_no_more_than_it_has(keeper: httpx.Client, keys: str, operator: httpx.Client) -> None:
    for scopes in (["jobs:write"], ["admin"], ["jobs:read", "data:read"], ["audit:read"]):
        refused = keeper.post(keys, json={"name": "k", "scopes": scopes})
        assert (refused.status_code, refused.json()["code"]) == (403, "grant_exceeded"), scopes
    create(keeper, keys, "jobs:read", "keys:write")
    strong = create(operator, keys, *EVERY)
    # Nor does it touch a key that has more: neither takes its place nor ends it.
    for method, path, body in (("POST", "/rotate", {}), ("PATCH", "", {"name": "x"}), ("DELETE", "", None)):
        refused = keeper.request(method, f"{keys}/{strong['id']}{path}", json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "grant_exceeded")


def test_a_secret_is_replayed_to_the_key_that_made_it_alone(
    service: str, make_key: MakeKey, project: str, keys: str
) -> None:
    """A weaker key of the same project that knows the Idempotency-Key does not get a stronger one by it."""
    call = {"json": {"name": "strong", "scopes": ["admin"]}, "headers": {"Idempotency-Key": "known"}}
    strong, weak = make_key(scopes=[Scope.admin]), make_key(scopes=[Scope.keys_write])
    with client_of(service, strong) as operator, client_of(service, weak) as other:
        first = operator.post(keys, **call)  # type: ignore[arg-type]
        stolen = other.post(keys, **call)  # type: ignore[arg-type]
        assert (stolen.status_code, stolen.json()["code"]) == (422, "idempotency_key_reused")
        assert operator.post(keys, **call).content == first.content  # type: ignore[arg-type]


def test_a_key_gives_no_more_time_than_it_has(
    keeper: httpx.Client, keys: str, operator: httpx.Client, service: str
) -> None:
    short = create(operator, keys, "keys:write", "jobs:read", expires_at=SOON)["secret"]
    lasting = create(operator, keys, "jobs:read")
    with client_of(service, short) as client:
        for expiry in ({}, {"expires_at": LATER}):
            refused = client.post(keys, json={"name": "k", "scopes": ["jobs:read"], **expiry})
            assert (refused.status_code, refused.json()["code"]) == (403, "grant_exceeded")
        assert client.post(f"{keys}/{lasting['id']}/rotate", json={}).status_code == 403
        create(client, keys, "jobs:read", expires_at=SOON)


def test_unusable_wishes_name_their_field(operator: httpx.Client, keys: str) -> None:
    wrong = {
        "/scopes": {"scopes": []},
        "/scopes/0": {"scopes": ["jobs:fly"]},
        "/name": {"name": " "},
        "/expires_at": {"expires_at": "2020-01-01T00:00:00Z"},
        "/project": {"project": "x"},
    }
    for pointer, change in wrong.items():
        refused = operator.post(keys, json={"name": "k", "scopes": ["jobs:read"], **change})
        assert refused.status_code == 422, pointer
        assert refused.json()["errors"][0]["pointer"] == pointer


def test_a_revoked_key_is_over_with_all_its_secrets(operator: httpx.Client, keys: str, service: str) -> None:
    made = create(operator, keys, "jobs:read")
    new = operator.post(f"{keys}/{made['id']}/rotate", json={}).json()
    assert alive(service, made["secret"])
    assert alive(service, new["secret"])
    for _ in range(2):
        assert operator.delete(f"{keys}/{made['id']}").status_code == 204
    assert not alive(service, made["secret"])
    assert not alive(service, new["secret"])
    assert operator.get(f"{keys}/{made['id']}").json()["state"] == "revoked"
    again = operator.post(f"{keys}/{made['id']}/rotate", json={})
    assert (again.status_code, again.json()["code"]) == (409, "key_ended")


def test_the_old_secret_lives_for_its_grace(
    operator: httpx.Client, keys: str, service: str, session: Session
) -> None:
    made = create(operator, keys, "jobs:read")
    first = operator.post(f"{keys}/{made['id']}/rotate", json={"grace_seconds": 60}).json()
    assert first["previous_valid_until"] is not None
    assert first["hint"] == first["secret"][: len(first["hint"])]
    assert alive(service, made["secret"])
    session.execute(update(ApiKey).values(previous_until=from_now(-1)))
    session.commit()
    assert not alive(service, made["secret"])
    second = operator.post(f"{keys}/{made['id']}/rotate", json={"grace_seconds": 0}).json()
    assert (alive(service, first["secret"]), alive(service, second["secret"])) == (False, True)
    # A second rotation within the grace ends the first secret.
    third = operator.post(f"{keys}/{made['id']}/rotate", json={}).json()
    fourth = operator.post(f"{keys}/{made['id']}/rotate", json={}).json()
    assert [alive(service, each["secret"]) for each in (second, third, fourth)] == [False, True, True]


def test_a_key_is_renamed_and_nothing_else(operator: httpx.Client, keys: str) -> None:
    made = create(operator, keys, "jobs:read")
    assert operator.patch(f"{keys}/{made['id']}", json={"name": "new"}).json()["name"] == "new"
    refused = operator.patch(f"{keys}/{made['id']}", json={"name": "new", "scopes": ["admin"]})
    assert refused.status_code == 422


def test_rotation_under_load_refuses_nobody(
    operator: httpx.Client, keys: str, service: str, session: Session
) -> None:
    """Ten callers take the new secret as it comes, and none of their calls is refused."""
    made = create(operator, keys, "jobs:read")
    current, ended, refused, calls = [made["secret"]], threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(base_url=service, trust_env=False, timeout=30) as client:
            while not ended.is_set():
                answer = client.get("/v1/whoami", headers={"Authorization": f"Bearer {current[0]}"})
                calls.append(answer.status_code)
                if answer.status_code != 200:
                    refused.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        before = len(calls)
        current[0] = operator.post(f"{keys}/{made['id']}/rotate", json={"grace_seconds": 60}).json()["secret"]
        while len(calls) < before + 20:  # each caller has noticed
            time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    assert refused == []
    assert session.scalar(select(ApiKey.previous_until).where(ApiKey.id == made["id"])) is not None


def test_strangers_know_of_no_keys(
    keeper: httpx.Client, operator: httpx.Client, service: str, make_key: MakeKey
) -> None:
    with client_of(service, make_key("theirs", [Scope.keys_write])) as stranger:
        theirs = stranger.get("/v1/whoami").json()
    keys = f"/v1/projects/{theirs['project']['id']}/keys"
    for method, path, body in (
        ("GET", keys, None),
        ("POST", keys, {"name": "k", "scopes": ["jobs:read"]}),
        ("GET", f"{keys}/{theirs['key']['id']}", None),
        ("PATCH", f"{keys}/{theirs['key']['id']}", {"name": "x"}),
        ("DELETE", f"{keys}/{theirs['key']['id']}", None),
        ("POST", f"{keys}/{theirs['key']['id']}/rotate", {}),
    ):
        answer = keeper.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "project_not_found"), path
    ours = keeper.get("/v1/whoami").json()["project"]["id"]
    mixed = operator.get(f"/v1/projects/{ours}/keys/{theirs['key']['id']}")
    assert (mixed.status_code, mixed.json()["code"]) == (404, "key_not_found")
