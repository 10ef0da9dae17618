"""Migrations agree with the tables, and undo what they do."""

from alembic import command
from sqlalchemy import create_engine, inspect, text

from app.db.migrate import alembic_config, downgrade, is_current, upgrade
from app.local.servers import PostgresServer


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
