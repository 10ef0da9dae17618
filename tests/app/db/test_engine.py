"""No statement or forgotten transaction of the service holds the database for ever; a migration may take long."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.db.engine import make_engine
from app.db.migrate import migration_engine
from app.settings import Settings


def test_a_statement_that_takes_too_long_is_ended(settings: Settings) -> None:
    engine = make_engine(settings.model_copy(update={"statement_seconds": 0.05}))
    with engine.connect() as connection, pytest.raises(OperationalError, match="statement timeout"):
        connection.execute(text("SELECT pg_sleep(60)"))
    engine.dispose()


def test_every_session_of_the_service_has_its_limits(settings: Settings) -> None:
    engine = make_engine(settings)
    with engine.connect() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.scalar(text(f"SHOW {name}")) != "0", name
    engine.dispose()


def test_a_migration_has_none(settings: Settings) -> None:
    engine = migration_engine(settings.database_url.get_secret_value())
    with engine.connect() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.scalar(text(f"SHOW {name}")) == "0", name
