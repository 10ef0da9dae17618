"""No byte of a body is asked for before it is known who sends it and that it may be sent there.

A caller who expects `100 Continue` is told so at the first look at the body, and at no other time.
"""

import httpx
import pytest
from fastapi import FastAPI

from app.auth.scopes import Scope
from tests.app.bodies import Call, calls_with_bodies, connected, head, status_of
from tests.app.conftest import MakeKey


def first_word(url: str, call: Call, key: str | None, **more: str) -> int:
    """What a caller hears who has sent a head and waits."""
    headers = {"Content-Type": call.type, "Content-Length": "1000", "Expect": "100-continue", **more}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    with connected(url) as connection:
        connection.sendall(head(call.method, call.path, headers))
        return status_of(connection)


def test_there_are_calls_that_take_bodies(application: tuple[FastAPI, str]) -> None:
    assert {("POST", "/v1/jobs"), ("PATCH", "/v1/jobs/1"), ("POST", "/v1/models")} <= {
        (call.method, call.path) for call in calls_with_bodies(application[0])
    }


def test_no_body_is_read_of_a_caller_without_a_key(application: tuple[FastAPI, str], service: str) -> None:
    for call in calls_with_bodies(application[0]):
        assert first_word(service, call, None) == 401, call
        assert first_word(service, call, "sctr_" + "a" * 46) == 401, call


def test_no_body_is_read_of_a_key_without_the_scope(
    application: tuple[FastAPI, str], service: str, make_key: MakeKey
) -> None:
    reader = make_key(scopes=[Scope.jobs_read, Scope.data_read])
    for call in calls_with_bodies(application[0]):
        assert first_word(service, call, reader) == 403, call


def test_the_body_of_a_key_with_the_scope_is_asked_for(service: str, api: httpx.Client) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    assert first_word(service, Call("POST", "/v1/jobs", "application/json"), key) == 100


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/v1/nothing", 404), ("PUT", "/v1/jobs", 405), ("POST", "/livez", 405)]
)
def test_no_body_is_read_at_an_address_that_takes_none(
    method: str, path: str, status: int, service: str, api: httpx.Client
) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    for who in (None, key):
        assert first_word(service, Call(method, path, "application/json"), who) == status


def test_a_compressed_or_foreign_body_is_not_read(service: str, api: httpx.Client) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    call = Call("POST", "/v1/jobs", "application/json")
    assert first_word(service, call, key, **{"Content-Encoding": "gzip"}) == 415
    assert first_word(service, call, key, **{"Content-Type": "text/plain"}) == 415


def test_a_body_whose_length_is_too_large_is_not_read(service: str, api: httpx.Client) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    large = {"Content-Length": str(2**30)}
    assert first_word(service, Call("POST", "/v1/jobs", "application/json"), key, **large) == 413
    assert first_word(service, Call("PATCH", "/v1/jobs/1", "application/json"), key, **large) == 413
