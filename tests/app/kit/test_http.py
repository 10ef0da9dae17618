"""What holds for every call."""

import json
import socket
import time
from urllib.parse import quote, urlsplit

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

from app.kit.logs import configure_logs
from app.kit.redaction import redact
from app.settings import Settings
from tests.app.conftest import Inputs, client_of, running


def test_every_answer_has_an_id_and_safe_headers(api: httpx.Client) -> None:
    mine = api.get("/v1/jobs", headers={"X-Request-Id": "abc-1"})
    assert mine.headers["x-request-id"] == "abc-1"
    other = api.get("/nowhere", headers={"X-Request-Id": "a b<script>"})
    assert other.headers["x-request-id"] == other.json()["request_id"] != "a b<script>"
    for response in (mine, other):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_frameworks_errors_are_problems_too(api: httpx.Client) -> None:
    for method, path, status, code in [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 422, "invalid_request"),
        ("GET", "/v1/jobs?cursor=xx", 422, "invalid_request"),
        ("GET", "/v1/jobs?cursor=%00", 400, "malformed_request"),
        ("GET", "/v1/jobs/a%00b", 400, "malformed_request"),
    ]:
        response = api.request(method, path)
        assert (response.status_code, response.json()["code"]) == (status, code), path
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == f"urn:secateur:problem:{code}"
    assert api.put("/v1/jobs").headers["allow"] == "GET, HEAD, POST"


def test_a_parameter_that_a_call_does_not_know_is_refused(api: httpx.Client) -> None:
    """A mistyped filter would be answered with everything."""
    for path, known in (
        ("/v1/jobs?stat=failed&limit=1", "limit"),
        ("/v1/jobs/none/sensitivity?module=q", "matrix"),
    ):
        refused = api.get(path)
        (error,) = refused.json()["errors"]
        assert (refused.status_code, error["parameter"]) == (422, path.split("?")[1].split("=")[0])
        assert known in error["detail"]
    posted = api.post("/v1/jobs?dry_run=true", json={})
    assert posted.json()["errors"] == [
        {"pointer": None, "parameter": "dry_run", "detail": "is not a parameter of this call; it takes none"}
    ]


def test_bodies_must_be_small_strict_json(api: httpx.Client, settings: Settings) -> None:
    json_type = {"Content-Type": "application/json"}
    limit = settings.max_body_bytes
    for body, headers, status, code in [
        (b"{}", {}, 415, "unsupported_media_type"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"{", json_type, 400, "malformed_request"),
        (b'{"a": NaN}', json_type, 400, "malformed_request"),
        (b'{"model": "\\u0000"}', json_type, 422, "invalid_request"),
        (b"[" * 100_000, json_type, 422, "invalid_request"),
        (b" " * (limit + 1), json_type, 413, "too_large"),
        ((b" " * 2**16 for _ in range(limit // 2**16 + 1)), json_type, 413, "too_large"),
    ]:
        response = api.post("/v1/jobs", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert response.headers["x-request-id"]


def test_a_call_without_a_body_takes_no_large_one(api: httpx.Client, job: str, settings: Settings) -> None:
    body = b"x" * (settings.max_body_bytes + 1)
    assert api.post(f"/v1/jobs/{job}/cancel", content=body).status_code == 413


def test_a_lost_database_is_503_and_comes_back(api: httpx.Client, settings: Settings) -> None:
    ours = make_url(settings.database_url.get_secret_value())
    engine = create_engine(ours.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as administrator:
        assert api.get("/v1/jobs").status_code == 200
        administrator.execute(text(f'ALTER DATABASE "{ours.database}" ALLOW_CONNECTIONS false'))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        administrator.execute(text(kill), {"name": ours.database})
        response = api.get("/v1/jobs")
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert response.headers["retry-after"]
        for inside in (ours.database, "psycopg", "SELECT"):
            assert str(inside) not in response.text
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "failed")
        assert api.get("/livez").status_code == 200
        administrator.execute(text(f'ALTER DATABASE "{ours.database}" ALLOW_CONNECTIONS true'))
        assert api.get("/v1/jobs").status_code == 200
    engine.dispose()


def test_an_unforeseen_error_tells_nothing(
    api: httpx.Client, inputs: Inputs, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.execute(text("ALTER TABLE job_stages RENAME TO elsewhere"))
    session.commit()
    response = api.post("/v1/jobs", json=inputs.body(domains=[{"name": "confidential", "dataset": inputs.first}]))
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "database_error" in caplog.text
    assert "confidential" not in caplog.text
    for inside in ("elsewhere", "job_stages", "psycopg", "Traceback", "/app/"):
        assert inside not in response.text


def test_a_caller_who_hangs_up_is_no_error(service: str, api: httpx.Client) -> None:
    address = urlsplit(service)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as raw:
        raw.sendall(b"POST /v1/datasets/upload?name=a&format=txt HTTP/1.1\r\nHost: x\r\n")
        raw.sendall(f"Authorization: {api.headers['authorization']}\r\n".encode())
        raw.sendall(b"Content-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nabc")
    assert api.get("/v1/datasets").json()["data"] == []


def test_logs_hide_secrets() -> None:
    token = "sctr_" + "a" * 46
    line = f"hf_0123456789abcdef Authorization: Bearer {token} postgresql://me:pw@host/db https://s3/x?X-Amz-Signature=abc&y=1"
    hidden = redact(line)
    for secret in (token, "pw", "=abc", "hf_0123"):
        assert secret not in hidden
    assert "host/db" in hidden
    assert redact("the domain basic has too few windows") == "the domain basic has too few windows"


def test_readiness_without_the_broker_is_degraded(settings: Settings) -> None:
    deaf = settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")})
    for used, status in ((settings, "ready"), (deaf, "degraded")):
        with running(used) as url, client_of(url, None) as client:
            response = client.get("/readyz")
            assert (response.status_code, response.json()["status"]) == (200, status)


def test_only_the_named_hosts_are_served(settings: Settings) -> None:
    named = settings.model_copy(update={"allowed_hosts": ("API.example", "[::1]")})
    with running(named) as url, httpx.Client(base_url=url, trust_env=False) as client:
        for host, status in {
            "api.example": 401,
            "api.example:8443": 401,
            "[::1]:8000": 401,
            "evil.example": 400,
            "api.example.evil": 400,
            "api.example@evil.example": 400,
            "": 400,
        }.items():
            assert client.get("/v1/jobs", headers={"Host": host}).status_code == status, host
        assert client.get("/livez", headers={"Host": "10.0.0.1"}).status_code == 200


def test_no_other_origin_is_let_in(api: httpx.Client) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for response in (api.options("/v1/jobs", headers=asking), api.get("/v1/jobs", headers=asking)):
        assert [name for name in response.headers if name.startswith("access-control")] == []
    assert api.options("/v1/jobs", headers=asking).status_code == 405


def test_names_and_addresses_cannot_write_lines_into_the_log(
    api: httpx.Client, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs(settings)
    forged = '\r\n{"event": "request", "level": "info"}\x1b[2J\u2028'
    for path in (f"/v1/jobs/{quote(forged)}", f"/v1/{quote(forged)}", "/v1/" + "a" * 5000):
        api.get(path)
    api.post("/v1/models", json={"name": forged, "source": {"type": "hub", "id": forged}})
    written, deadline = "", time.monotonic() + 10
    while '"POST"' not in written and time.monotonic() < deadline:  # a request's line follows its answer
        time.sleep(0.01)
        written += capfd.readouterr().err
    lines = [line for line in written.split("\n") if line]
    said = [json.loads(line) for line in lines]
    assert len([each for each in said if each.get("logger") == "app.http"]) == len(said) >= 4
    assert all(line.isascii() and line.isprintable() and len(line) < 2000 for line in lines)
