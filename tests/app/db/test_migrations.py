"""Migrations agree with the tables, and undo what they do."""

from alembic import command
from sqlalchemy import create_engine, inspect

from app.db.migrate import alembic_config, downgrade, is_current, upgrade
from app.local.servers import PostgresServer


def test_the_newest_revision_is_what_the_tables_say(database_url: str) -> None:
    command.check(alembic_config(database_url))


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
