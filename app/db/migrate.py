"""Bring a database to the newest revision: `python -m app.db.migrate`."""

from importlib import resources
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool

from app.kit.logs import configure_logs
from app.settings import get_settings

_LOCK = 7_263_001
"""Advisory lock: two migrations never run at once, the second finds nothing to do."""


def alembic_config(url: str) -> Config:
    """Alembic, told where the revisions are and which database is meant."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")))
    config.attributes["url"] = url
    return config


def migration_engine(url: str) -> Engine:
    """Connections whose statements may take as long as they need, whatever the role's own limits are."""
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    # Of those, a server of before 17 lacks the last.
    engine = create_engine(url, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def unlimited(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [[*limits]]
            )
        connection.commit()

    return engine


def upgrade(url: str, revision: str = "head") -> None:
    """Apply every missing revision, each in its own transaction; waits for another process's run."""
    engine = migration_engine(url)
    try:
        with engine.connect() as lock:
            lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            command.upgrade(alembic_config(url), revision)
    finally:
        engine.dispose()


def downgrade(url: str, revision: str) -> None:
    """Undo revisions down to `revision` (`base` undoes all of them)."""
    command.downgrade(alembic_config(url), revision)


def is_current(connection: Connection) -> bool:
    """Whether the database has all of this code's revisions.

    It may be ahead: a revision that this code does not know is a later release's, and those only add.
    """
    scripts = ScriptDirectory.from_config(alembic_config(""))
    behind = {None, *(script.revision for script in scripts.walk_revisions())} - {scripts.get_current_head()}
    return MigrationContext.configure(connection).get_current_revision() not in behind


def main() -> None:
    """With the settings' database."""
    settings = get_settings()
    configure_logs(settings)
    upgrade(settings.database_url.get_secret_value())


if __name__ == "__main__":
    main()
