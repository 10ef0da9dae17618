from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event, func, select, text, update
from sqlalchemy.orm import Session

from app.auth.__main__ import main
from app.auth.scopes import Scope
from app.auth.service import authenticate, create_key
from app.auth.tokens import is_token, new_token
from app.jobs.lookup import Asked, look
from app.tables.audit import AuditEvent
from app.tables.auth import ApiKey, Project
from tests.app.conftest import Inputs, MakeKey, client_of


def test_a_typing_error_is_seen_without_the_database() -> None:
    token = new_token()
    assert is_token(token)
    assert not is_token(token[:-1])
    assert not is_token(token[:10] + ("a" if token[10] != "a" else "b") + token[11:])


@given(st.text())
def test_noise_is_no_token(text: str) -> None:
    assert not is_token(text)
    assert not is_token(f"sctr_{text}")


def test_only_the_hmac_is_kept(session: Session, make_key: MakeKey) -> None:
    token = make_key()
    row = session.scalars(select(ApiKey)).one()
    assert len(row.digest) == 32
    everything = " ".join(str(value) for value in vars(row).values())
    assert token not in everything
    assert token[len("sctr_") + 6 :] not in everything


def test_what_is_not_a_living_key_is_401(service: str, make_key: MakeKey, session: Session) -> None:
    expired, revoked, good = make_key(), make_key(), make_key()
    hints = {"expires_at": expired, "revoked_at": revoked}
    for column, token in hints.items():
        past = {column: func.now() - text("interval '1 second'")}
        session.execute(update(ApiKey).where(ApiKey.hint == token[:11]).values(past))
    session.commit()
    headers = [
        {},
        {"Authorization": good},
        {"Authorization": f"Basic {good}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {new_token()}"},
        {"Authorization": f"Bearer {expired}"},
        {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Bearer {good} x"},
    ]
    with client_of(service, None) as client:
        for each in headers:
            response = client.get("/v1/jobs", headers=each)
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized"), each
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/jobs", headers={"Authorization": f"bearer {good}"}).status_code == 200


def test_each_scope_opens_its_own_doors(service: str, make_key: MakeKey, inputs: Inputs) -> None:
    doors = {
        Scope.jobs_read: ("GET", "/v1/jobs"),
        Scope.jobs_write: ("POST", "/v1/jobs/job_x/cancel"),
        Scope.data_read: ("GET", "/v1/models"),
        Scope.data_write: ("DELETE", "/v1/datasets/ds_x"),
    }
    for held in doors:
        with client_of(service, make_key(scopes=[held])) as client:
            for needed, (method, path) in doors.items():
                response = client.request(method, path)
                if held is needed:
                    assert response.status_code in (200, 404)
                else:
                    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")
                    assert f'scope="{needed}"' in response.headers["www-authenticate"]


def test_an_operators_key_opens_no_projects_jobs_and_data(service: str, make_key: MakeKey) -> None:
    with client_of(service, make_key(scopes=[Scope.admin])) as client:
        for method, path in (("GET", "/v1/jobs"), ("GET", "/v1/models"), ("DELETE", "/v1/datasets/ds_x")):
            assert (client.request(method, path).status_code) == 403
        assert client.get("/v1/projects").status_code == 200


def test_the_last_use_is_written_at_most_once_a_minute(api: httpx.Client, session: Session) -> None:
    used = select(ApiKey.last_used_at)
    api.get("/v1/jobs")
    first = session.scalar(used)
    session.rollback()
    api.get("/v1/jobs")
    assert first is not None
    assert session.scalar(used) == first
    session.execute(update(ApiKey).values(last_used_at=first - timedelta(minutes=2)))
    session.commit()
    api.get("/v1/jobs")
    assert session.scalar(used) > first  # type: ignore[operator]


def test_unusable_wishes_are_refused(session: Session, make_key: MakeKey) -> None:
    for project, name, scopes, expires in [
        ("ours", "k", ["jobs:fly"], None),
        ("ours", "k", [], None),
        ("", "k", ["jobs:read"], None),
        ("ours", "a\nb", ["jobs:read"], None),
        ("ours", "k", ["jobs:read"], datetime.now(UTC) - timedelta(seconds=1)),
    ]:
        with pytest.raises(ValueError, match=r".+"):
            create_key(session, project, name, scopes, expires)


def test_the_command_prints_only_the_key(
    service: str, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        return main(list(arguments)), capsys.readouterr().out

    capsys.readouterr()
    code, printed = run("create-key", "--project", "default", "--name", "laptop")
    token = printed.removesuffix("\n")
    assert code == 0
    assert is_token(token)
    assert session.scalars(select(Project.name)).all() == ["default"]
    with client_of(service, token) as client:
        assert client.get("/v1/jobs").status_code == 200
        id = run("list-keys", "--project", "default")[1].split()[0]
        assert run("revoke-key", id) == (0, "")
        assert client.get("/v1/jobs").status_code == 401
    assert run("revoke-key", id) == (1, "")
    actions = select(AuditEvent.action, AuditEvent.object_id).order_by(AuditEvent.id)
    assert [tuple(row) for row in session.execute(actions)] == [("create_key", id), ("revoke_key", id)]


def test_the_first_operators_key_is_made_once(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["create-key", "--project", "operators", "--name", "first", "--scope", "admin"]

    def run(*more: str) -> tuple[int, str, str]:
        code = main([*arguments, *more])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(lambda _: main(arguments), range(4)))
    assert codes == [0, 1, 1, 1]
    assert is_token(capsys.readouterr().out.strip())
    code, out, err = run()
    assert (code, out) == (1, "")
    assert "there is an admin key already, key_" in err
    # It is lost: another one, and then the lost one is revoked.
    assert is_token(run("--another")[1].strip())
    assert session.scalar(select(func.count()).select_from(ApiKey)) == 2


def test_keys_are_found_by_indexes_however_many_there_are(
    engine: Engine, session: Session, make_key: MakeKey
) -> None:
    make_key()
    session.execute(
        text(
            "INSERT INTO api_keys (id, project_id, name, hint, digest, scopes, previous_digest, previous_until) "
            "SELECT 'k' || n, (SELECT min(id) FROM projects), '', '', sha256(n::text::bytea), '{}', "
            "sha256((-n)::text::bytea), now() FROM generate_series(1, 20000) n"
        )
    )
    session.commit()
    session.execute(text("ANALYZE api_keys"))
    session.commit()
    sent: list[tuple[str, Any]] = []
    event.listen(
        engine, "before_cursor_execute", lambda _, __, statement, given, *___: sent.append((statement, given))
    )
    with engine.begin() as connection:
        authenticate(connection, [b"1" * 32, b"2" * 32])
        look(connection, [Asked(b"1" * 32, "job_1"), Asked(b"2" * 32, "job_2")])
        asked = [each for each in sent if "api_keys" in each[0]]
        assert len(asked) == 2
        for statement, given in asked:
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", given).scalars())
            assert "Seq Scan on api_keys" not in plan, plan
