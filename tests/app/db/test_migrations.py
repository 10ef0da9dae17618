"""Migrations agree with the tables, and undo what they do."""

import json

from alembic import command
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.orm import Session
from starlette.requests import Request

from app.db.migrate import alembic_config, downgrade, is_current, upgrade
from app.idempotency import repository
from app.idempotency.once import fingerprint
from app.local.servers import PostgresServer
from secateur.spec.job import canonical_digest


def test_the_newest_revision_is_what_the_tables_say(database_url: str) -> None:
    command.check(alembic_config(database_url))


def test_the_release_before_runs_on_with_a_newer_schema(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:  # and rolled back
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
        assert is_current(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '0007'"))
        assert not is_current(connection)
        connection.execute(text("DELETE FROM alembic_version"))
        assert not is_current(connection)
    engine.dispose()


def test_down_and_up_again(postgres: PostgresServer) -> None:
    url = postgres.create_database("migrations")
    engine = create_engine(url)
    for _ in range(2):
        upgrade(url)
        with engine.connect() as connection:
            assert is_current(connection)
            assert "jobs" in inspect(connection).get_table_names()
        downgrade(url, "base")
        with engine.connect() as connection:
            assert not is_current(connection)
            assert inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()
    postgres.drop_database("migrations")


def test_stored_specs_take_the_new_word_of_a_comparison_group(postgres: PostgresServer) -> None:
    url = postgres.create_database("words")
    engine = create_engine(url)
    upgrade(url, "0009")
    spec = {
        "method": {"name": "copal", "comparison_group": "layer"},
        "sparsity": {"overrides": [{"match": "layer*", "method": {"name": "wanda", "comparison_group": "layer"}}]},
        "model": "layer",
    }
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name) VALUES ('p', 'p')"))
        model = "INSERT INTO models (id, project_id, name, state, source) VALUES ('m', 'p', 'm', 'ready', '{}')"
        connection.execute(text(model))
        plan = (
            "INSERT INTO plans (id, project_id, model_id, state, spec) VALUES ('plan', 'p', 'm', 'pending', :spec)"
        )
        connection.execute(text(plan), {"spec": json.dumps(spec)})
    stored = text("SELECT spec FROM plans")
    upgrade(url)
    with engine.connect() as connection:
        found = connection.execute(stored).scalar_one()
        assert inspect(connection).has_table("job_matrices")
    assert json.dumps(found, sort_keys=True) == json.dumps(spec, sort_keys=True).replace(
        '"comparison_group": "layer"', '"comparison_group": "matrix"'
    )
    downgrade(url, "0009")
    with engine.connect() as connection:
        assert connection.execute(stored).scalar_one() == spec
    engine.dispose()
    postgres.drop_database("words")


def test_answers_of_before_are_replayed_after(postgres: PostgresServer) -> None:
    """A request that was sent before the upgrade and is repeated after it makes no second job."""
    url = postgres.create_database("answers")
    engine = create_engine(url)
    upgrade(url, "0012")
    body = {"model": "mdl_x"}
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name) VALUES ('p', 'p')"))
        values = {"print": canonical_digest(body), "answer": '{"id": "job_1", "state": "queued"}'}
        key = (
            "INSERT INTO idempotency_keys (project_id, key, fingerprint, response, expires_at) "
            "VALUES ('p', 'k', :print, :answer, now() + interval '1 hour')"
        )
        connection.execute(text(key), values)
    upgrade(url)
    with Session(engine) as session:
        kept = repository.find(session, "p", "k")
    assert kept is not None
    request = Request({"type": "http", "method": "POST", "path": "/v1/jobs", "query_string": b"", "headers": []})
    assert kept.fingerprint == fingerprint(request, canonical_digest(body))
    assert (kept.status, json.loads(kept.body)["id"], kept.sealed) == (201, "job_1", False)
    assert ["location", "/v1/jobs/job_1"] in [list(each) for each in kept.headers]
    engine.dispose()
    postgres.drop_database("answers")


def test_administrators_of_before_are_no_operators(postgres: PostgresServer) -> None:
    url = postgres.create_database("scopes")
    engine = create_engine(url)
    upgrade(url, "0012")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO projects (id, name) VALUES ('p', 'p')"))
        for id, scopes in (("a", "{admin}"), ("b", "{jobs:read}")):
            columns = "INSERT INTO api_keys (id, project_id, name, hint, digest, scopes)"
            key = f"{columns} VALUES (:id, 'p', '', '', :d, :s)"
            connection.execute(text(key), {"id": id, "d": id.encode(), "s": scopes})
    upgrade(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, scopes FROM api_keys ORDER BY id")).all()
    assert [tuple(row) for row in found] == [
        ("a", ["data:read", "data:write", "jobs:read", "jobs:write"]),
        ("b", ["jobs:read"]),
    ]
    engine.dispose()
    postgres.drop_database("scopes")
