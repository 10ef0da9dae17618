"""Migrations agree with the tables, and undo what they do."""

import json

from alembic import command
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.orm import Session

from app.db.migrate import alembic_config, downgrade, is_current, upgrade
from app.local.servers import PostgresServer
from app.tables.auth import Project
from app.tables.models import Model
from app.tables.plans import Plan


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
    with Session(engine) as session, session.begin():
        session.add_all(
            [Project(id="p", name="p"), Model(id="m", project_id="p", name="m", state="ready", source={})]
        )
        session.flush()
        session.add(Plan(id="plan", project_id="p", model_id="m", spec=spec))
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
