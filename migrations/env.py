"""How Alembic runs our revisions: one transaction each, on the URL that app.db.migrate passes."""

from alembic import context

from app.db.migrate import migration_engine
from app.settings import get_settings
from app.tables import METADATA


def run() -> None:
    """Apply the revisions that were asked for."""
    url = context.config.attributes.get("url") or get_settings().database_url.get_secret_value()
    engine = migration_engine(url)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=METADATA,
            transaction_per_migration=True,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
