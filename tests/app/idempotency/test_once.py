"""Every call that makes something makes it once, whatever becomes of its answer."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.auth.scopes import EVERY
from app.db.clock import from_now
from app.dispatch.housekeeping import forget
from app.idempotency import repository
from app.settings import Settings
from app.tables import METADATA
from app.tables.idempotency import IdempotencyKey
from app.tables.jobs import Job
from app.tables.plans import Plan
from secateur import Client
from tests.app.conftest import Inputs, MakeKey, client_of
from tests.app.idempotency.creating import CREATIONS, MAKE_NOTHING, Creation

HEADERS = ("location", "etag", "content-type", "retry-after")
MADE = (200, 201, 202)
KEYS = select(func.count()).select_from(IdempotencyKey)


@pytest.fixture
def api(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller who may do anything."""
    with client_of(service, make_key(scopes=EVERY)) as client:
        yield client


@pytest.fixture(params=CREATIONS)
def creation(request: pytest.FixtureRequest, inputs: Inputs, job: str, session: Session) -> Creation:
    """Each in turn. There is one job already."""
    return CREATIONS[request.param][1](inputs, session)


def test_every_post_takes_a_key_or_makes_nothing(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    posts = {item["post"]["operationId"]: item["post"] for item in paths.values() if "post" in item}
    takes = {
        name for name, post in posts.items() if "Idempotency-Key" in {each["name"] for each in post["parameters"]}
    }
    assert takes == {operation for operation, _ in CREATIONS.values()}
    assert set(posts) - takes == MAKE_NOTHING
    for name in takes:
        examples = [
            response["content"]["application/problem+json"]["examples"]
            for status, response in posts[name]["responses"].items()
            if status in ("409", "422")
        ]
        assert {"idempotency_key_in_flight", "idempotency_key_reused"} <= {
            code for each in examples for code in each
        }


def test_a_repetition_gets_the_first_answer_byte_for_byte(
    api: httpx.Client, creation: Creation, session: Session
) -> None:
    before = creation.count(session)
    first, again = creation.send(api, "k"), creation.send(api, "k")
    assert first.status_code in MADE, first.text
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert [again.headers.get(name) for name in HEADERS] == [first.headers.get(name) for name in HEADERS]
    assert (first.headers.get("idempotency-replayed"), again.headers.get("idempotency-replayed")) == (None, "true")
    assert creation.count(session) == before + 1


def test_a_key_names_one_request(
    api: httpx.Client, stranger: httpx.Client, creation: Creation, inputs: Inputs, session: Session
) -> None:
    creation.send(api, "k")
    made = creation.count(session)
    others = [api.post("/v1/plans", json=inputs.body(labels={"a": "b"}), headers={"Idempotency-Key": "k"})]
    if creation.other is not None:
        others.append(creation.send(api, "k", **creation.other))
    for other in others:
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert creation.count(session) == made
    # Another project's keys are its own: it is answered as if nobody had used the key.
    assert creation.send(stranger, "k").json().get("code") not in ("idempotency_key_reused",)
    assert "idempotency-replayed" not in creation.send(stranger, "l").headers


def test_many_equal_calls_at_once_make_one(api: httpx.Client, creation: Creation, session: Session) -> None:
    """More callers than connections to the database, and all of them get the answer."""
    before = creation.count(session)
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: creation.send(api, "race"), range(50)))
    assert creation.count(session) == before + 1
    answered = [each for each in responses if each.status_code in MADE]
    assert len({each.content for each in answered}) == 1
    assert sum("idempotency-replayed" not in each.headers for each in answered) == 1
    for each in set(responses) - set(answered):
        if each.status_code == 429:  # more files at once than a project may send
            assert (creation.path, each.json()["quota"]) == ("/v1/datasets/upload", "uploads")
            continue
        assert (each.status_code, each.json()["code"], each.headers["retry-after"]) == (
            409,
            "idempotency_key_in_flight",
            "1",
        )


def test_what_fails_with_the_record_written_is_not_remembered(
    api: httpx.Client, creation: Creation, session: Session
) -> None:
    before = creation.count(session)
    session.execute(text("CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''no''; END' LANGUAGE plpgsql"))
    session.execute(
        text(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON idempotency_keys DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    )
    session.commit()
    assert creation.send(api, "k").status_code == 500
    assert (creation.count(session), session.scalar(KEYS)) == (before, 0)
    session.rollback()
    session.execute(text("DROP TRIGGER refuse ON idempotency_keys"))
    session.commit()
    again = creation.send(api, "k")
    assert again.status_code in MADE
    assert "idempotency-replayed" not in again.headers
    assert creation.count(session) == before + 1


def test_a_refusal_is_not_remembered(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    for path, body in (("/v1/jobs", inputs.body(model="mdl_x")), ("/v1/models", {"name": "x"})):
        assert api.post(path, json=body, headers={"Idempotency-Key": "k"}).status_code == 422
    assert session.scalar(KEYS) == 0


def test_who_comes_while_the_first_call_works_waits_a_moment_for_it(
    api: httpx.Client, inputs: Inputs, project: str, session: Session, settings: Settings
) -> None:
    """Twenty wait, and neither a thread nor a connection is taken from others."""
    send = lambda _: api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": "k"})  # noqa: E731
    assert repository.lock(session, project, "k")
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(send, number) for number in range(20)]
        for _ in range(20):
            assert api.get("/v1/jobs").status_code == 200
        answers = [each.result() for each in waiting]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_flight")
        assert answer.headers["retry-after"] == "1"
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(send, 0)
        session.rollback()  # the first call has come to nothing
        assert late.result().status_code == 201


def test_answers_are_sealed_at_rest(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    made = api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": "k"}).json()
    row = session.scalars(select(IdempotencyKey)).one()
    assert row.sealed
    assert made["id"].encode() not in row.body
    # A row that somebody has moved to another key opens nothing.
    row.key = "l"
    session.commit()
    moved = api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": "l"})
    assert (moved.status_code, moved.json()["code"]) == (422, "idempotency_key_reused")


def test_a_secret_that_is_shown_once_is_replayed_and_stored_nowhere(
    api: httpx.Client, project: str, session: Session
) -> None:
    body = {"name": "ci", "scopes": ["jobs:read"]}
    send = lambda: api.post(f"/v1/projects/{project}/keys", json=body, headers={"Idempotency-Key": "k"})  # noqa: E731
    first, again = send(), send()
    secret = first.json()["secret"]
    assert again.content == first.content
    for table in METADATA.sorted_tables:
        for row in session.execute(select(table)):
            assert secret not in repr(tuple(row)), table.name
            assert secret.encode() not in b"".join(each for each in row if isinstance(each, bytes)), table.name


def test_a_plan_that_is_waited_for_is_replayed_as_it_was_answered(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    send = lambda: api.post(  # noqa: E731
        "/v1/plans", json=inputs.body(), params={"wait": 3}, headers={"Idempotency-Key": "k"}
    )
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send)
        while not (id := session.scalar(select(Plan.id))):
            session.rollback()
            time.sleep(0.02)
        second = pool.submit(send)
        session.execute(update(Plan).values(state="failed", error={"code": "x", "message": "y", "field": None}))
        session.commit()
        answers = [first.result(), second.result(), send()]
    assert [each.status_code for each in answers] == [200] * 3
    assert len({each.content for each in answers}) == 1
    assert answers[0].json()["id"] == id
    assert session.scalar(select(func.count()).select_from(Plan)) == 1


def test_a_call_that_died_while_it_waited_is_replayed_as_it_stood(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    send = lambda: api.post("/v1/plans", json=inputs.body(), headers={"Idempotency-Key": "k"})  # noqa: E731
    first = send()
    session.execute(update(IdempotencyKey).values(open_until=from_now(30)))
    session.commit()
    assert send().status_code == 409
    session.execute(update(IdempotencyKey).values(open_until=from_now(-1)))
    session.commit()
    assert send().content == first.content


def test_keys_are_forgotten_in_time(
    api: httpx.Client, inputs: Inputs, session: Session, settings: Settings
) -> None:
    api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": "k"})
    forget(settings)
    assert session.scalar(KEYS) == 1
    session.execute(update(IdempotencyKey).values(expires_at=from_now(-1)))
    session.commit()
    forget(settings)
    assert session.scalar(KEYS) == 0
    assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_our_client_sees_its_own_slow_request_through(
    service: str, make_key: MakeKey, inputs: Inputs, session: Session
) -> None:
    """Its first try ends by its own time limit, and the next ones find that one at work."""
    session.execute(text("SELECT FROM models FOR UPDATE"))
    let_go = threading.Timer(4, session.rollback)
    with Client(service, make_key(), timeout=0.5, retry_seconds=60) as client:
        let_go.start()
        made = client.submit(inputs.body())
        let_go.join()
        assert [job["id"] for job in client.jobs()] == [made["id"]]


def test_a_slow_first_upload_holds_nobody_up(api: httpx.Client, session: Session) -> None:
    """The key is taken when the text is there, so a broken upload leaves nothing behind."""
    go_on = threading.Event()

    def slowly() -> object:
        yield b"A text"
        go_on.wait(30)
        yield b"."

    headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": "k"}
    call = {"params": {"name": "t", "format": "txt"}, "headers": headers}
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(lambda: api.post("/v1/datasets/upload", content=slowly(), **call))  # type: ignore[arg-type]
        quick = api.post("/v1/datasets/upload", content=b"A text.", **call)  # type: ignore[arg-type]
        go_on.set()
        assert quick.status_code == 201
        assert (slow.result().content, slow.result().headers["idempotency-replayed"]) == (quick.content, "true")
