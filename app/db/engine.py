"""The connection to PostgreSQL: engine and sessions.

SQLAlchemy is used synchronously everywhere, so that the API, the dispatcher and the workers share one
repository code; the API runs it on FastAPI's threads and never while a request merely waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from pydantic_core import from_json
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings, get_settings


def make_engine(settings: Settings, connections: int | None = None, *, ping: bool = True) -> Engine:
    """An engine whose connections are checked before use and give up connecting after five seconds.

    connections: at the most; by default as the settings say. ping: without it nothing is checked, and the first
    statement after a restart of the database fails.
    """
    return create_engine(
        settings.database_url.get_secret_value(),
        pool_size=connections or settings.database_pool,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=ping,
        # Errors go to the log, and what a statement carried is the caller's business.
        hide_parameters=True,
        json_deserializer=from_json,
        connect_args={
            "connect_timeout": 5,
            "options": f"-c timezone=UTC -c lock_timeout=15s -c idle_in_transaction_session_timeout=60s "
            f"-c statement_timeout={round(settings.statement_seconds * 1000)}",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )


@lru_cache
def get_engine() -> Engine:
    """The process's engine; call `.dispose()` on it before a fork."""
    return make_engine(get_settings())


@lru_cache
def get_session_factory() -> sessionmaker[Session]:
    """Sessions on the process's engine."""
    return sessionmaker(get_engine(), expire_on_commit=False)


@contextmanager
def transaction() -> Iterator[Session]:
    """One unit of work: commits at the end, rolls back on any exception."""
    with get_session_factory().begin() as session:
        yield session
