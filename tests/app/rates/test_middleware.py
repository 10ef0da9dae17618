"""Calls that are one too many, over real HTTP, with the broker there, away and silent."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest
import redis

from app.auth.tokens import new_token
from app.rates import shared
from app.rates.shared import KEY_PREFIX
from app.settings import Settings
from tests.app.conftest import MakeKey, client_of, running

LABELS: dict[str, Any] = {"labels": {"a": "b"}}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is there is waited for, however busy the machine is."""
    monkeypatch.setattr(shared, "ANSWER_SECONDS", 30.0)


@contextmanager
def limited(settings: Settings, **changed: Any) -> Iterator[str]:
    with running(settings.model_copy(update=changed)) as url:
        yield url


def write(client: httpx.Client) -> httpx.Response:
    """A call that counts as a write, and finds nothing."""
    return client.patch("/v1/jobs/job_none", json=LABELS)


def test_reads_and_writes_are_counted_apart(settings: Settings, make_key: MakeKey) -> None:
    with limited(settings, rate_writes=2, rate_reads=1000) as url, client_of(url, make_key()) as api:
        assert api.get("/v1/jobs").status_code == 200
        assert [write(api).status_code for _ in range(3)] == [404, 404, 429]
        assert api.get("/v1/jobs").status_code == 200


def test_a_refusal_says_when_to_come_again(settings: Settings, make_key: MakeKey) -> None:
    with limited(settings, rate_writes=1) as url, client_of(url, make_key()) as api:
        api.get("/v1/jobs")
        first, second = write(api), write(api)
    assert first.headers["ratelimit-policy"] == '"writes";q=1;w=60'
    assert first.headers["ratelimit"].startswith('"writes";r=0;t=')
    problem = second.json()
    assert (second.status_code, problem["code"], problem["status"]) == (429, "rate_limited", 429)
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert second.headers["content-type"] == "application/problem+json"
    assert second.headers["x-request-id"] == problem["request_id"]


def test_processes_count_together(patient: None, settings: Settings, make_key: MakeKey) -> None:
    """Two services over one broker: what one has let in, the other counts, too."""
    with ExitStack() as stack:
        key = make_key()
        urls = [stack.enter_context(limited(settings, rate_writes=4)) for _ in range(2)]
        callers = [stack.enter_context(client_of(url, key)) for url in urls]
        for each in callers:
            each.get("/v1/jobs")
        found = [write(callers[i % 2]).status_code for i in range(8)]
        assert found.count(404) == 4
        assert set(found[4:]) == {429}


def test_keys_of_one_address_do_not_share(settings: Settings, make_key: MakeKey) -> None:
    with limited(settings, rate_writes=1) as url:
        for project in ("ours", "theirs"):
            with client_of(url, make_key(project)) as api:
                api.get("/v1/jobs")
                assert [write(api).status_code for _ in range(2)] == [404, 429]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/nothing", "/readyz"])
def test_guessing_keys_is_stopped_by_address_and_stops_nobody_else(
    settings: Settings, make_key: MakeKey, path: str
) -> None:
    with limited(settings, rate_anonymous=20) as url, client_of(url, make_key()) as api:
        assert api.get("/v1/jobs").status_code == 200
        with httpx.Client(base_url=url, trust_env=False) as stranger:
            tried = [stranger.get(path, headers={"Authorization": f"Bearer {new_token()}"}) for _ in range(40)]
        assert [each.status_code for each in tried].count(429) >= 10
        assert api.get("/v1/jobs").status_code == 200, "a key that works is not counted with its address"
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200


def test_a_revoked_key_is_counted_by_its_address_again(settings: Settings, make_key: MakeKey) -> None:
    from app.auth.repository import list_keys, revoke_key
    from app.db.engine import transaction

    with limited(settings, rate_anonymous=5) as url, client_of(url, make_key()) as api:
        assert api.get("/v1/jobs").status_code == 200
        with transaction() as session:
            revoke_key(session, list_keys(session, "ours")[0].id)
        found = [api.get("/v1/jobs").status_code for _ in range(10)]
        assert found[0] == 401
        assert 429 in found


def test_switched_off_nothing_is_counted(settings: Settings, make_key: MakeKey) -> None:
    with limited(settings, rate_limits=False, rate_writes=1) as url, client_of(url, make_key()) as api:
        found = [write(api) for _ in range(5)]
    assert {each.status_code for each in found} == {404}
    assert "ratelimit" not in found[0].headers


def test_zero_is_any_number(settings: Settings, make_key: MakeKey) -> None:
    with limited(settings, rate_writes=0) as url, client_of(url, make_key()) as api:
        assert {write(api).status_code for _ in range(5)} == {404}


@contextmanager
def silent() -> Iterator[str]:
    """URL of a server that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@contextmanager
def nobody() -> Iterator[str]:
    """URL where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    yield f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize("broker", [silent, nobody])
def test_without_the_broker_each_process_counts_for_itself(
    settings: Settings, make_key: MakeKey, broker: Any
) -> None:
    with broker() as url:
        changed = settings.model_copy(update={"broker_url": type(settings.broker_url)(url), "rate_writes": 20})
        with running(changed) as service, client_of(service, make_key()) as api:
            api.get("/v1/jobs")
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda _: write(api).status_code, range(30)))
    assert set(found) == {404, 429}
    assert found.count(404) >= 20, "more may have come back while they ran"


def test_our_keys_in_the_broker_are_apart_and_expire(patient: None, settings: Settings, make_key: MakeKey) -> None:
    key = make_key()
    with limited(settings) as url, client_of(url, key) as api:
        api.get("/v1/jobs")
        write(api)
    client = redis.Redis.from_url(settings.broker_url.get_secret_value())
    with closing(client):
        names = [name.decode() for name in client.keys("*")]
        assert names
        for name in names:
            assert name.startswith(KEY_PREFIX)
            assert key not in name
            assert 0 < client.ttl(name) <= 240


@pytest.mark.parametrize("type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_a_write_is_one_however_its_type_is_spelled(settings: Settings, make_key: MakeKey, type: str) -> None:
    with limited(settings, rate_writes=1, rate_uploads=1000) as url, client_of(url, make_key()) as api:
        api.get("/v1/jobs")
        call: dict[str, Any] = {"content": b'{"labels": {}}', "headers": {"Content-Type": type}}
        assert [api.patch("/v1/jobs/job_none", **call).status_code for _ in range(2)][-1] == 429
