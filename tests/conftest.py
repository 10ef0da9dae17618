"""Real servers for the tests: each is started once, when a test first asks for it, and stopped at the end.

A test gets an empty migrated database, an empty broker and an empty folder store.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from app.db import engine as database_module
from app.kit import logs
from app.local.servers import PostgresServer, SeaweedServer, ValkeyServer
from app.settings import Settings, get_settings
from app.storage import ObjectStore, open_store
from tests.databases import EmptiedDatabase

BUCKET = "secateur-tests"

# A busy machine is not a fault.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "bfloat16: multiply as a processor with AMX does, on any processor"
    parser.addoption("--products", choices=("native", "bfloat16"), default="native", help=text)
    text = "write down what jobs ask of a GPU (tests/worker/pruning/gpu/counts.txt) instead of holding them to it"
    parser.addoption("--accept-counts", action="store_true", help=text)


@pytest.fixture(scope="session", autouse=True)
def _logs_of_tests_alone() -> Iterator[None]:
    """A server that outlives a test also writes when nobody captures: such lines are nobody's."""
    nobody = open(os.devnull, "w")  # noqa: SIM115 - open as long as the tests run
    with pytest.MonkeyPatch.context() as patch:
        stream = property(lambda _: nobody if sys.stderr is sys.__stderr__ else sys.stderr)
        patch.setattr(logs._StandardError, "stream", stream)
        yield


@pytest.fixture(scope="session", autouse=True)
def _products(request: pytest.FixtureRequest) -> Iterator[None]:
    """What `--products` asks for."""
    if request.config.getoption("--products") == "native":
        yield
        return
    from benchmarks.bfloat16 import amx

    with amx():
        yield


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers keep their files."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[PostgresServer]:
    """PostgreSQL."""
    with PostgresServer(servers_folder / "postgres", password=secrets.token_hex(16), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def emptied(postgres: PostgresServer) -> EmptiedDatabase:
    """The database that test after test is given."""
    return EmptiedDatabase(postgres)


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[ValkeyServer]:
    """The broker."""
    with ValkeyServer(servers_folder / "valkey", password=secrets.token_hex(16)) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed(servers_folder: Path) -> Iterator[SeaweedServer]:
    """An S3 server."""
    folder = servers_folder / "seaweed"
    with SeaweedServer(folder, bucket=BUCKET, access_key="tests", secret_key=secrets.token_hex(16)) as server:
        yield server


@pytest.fixture
def database_url(emptied: EmptiedDatabase) -> Iterator[str]:
    """A migrated database without a row."""
    yield emptied.url
    emptied.empty()


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """An empty broker."""
    client = redis.Redis.from_url(valkey.url)
    client.flushall()
    client.close()
    return valkey.url


@pytest.fixture
def environment(database_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    """SECATEUR_* variables of a whole service with a folder store; also for child processes."""
    (tmp_path / "models").mkdir()
    return {
        "SECATEUR_DATABASE_URL": database_url,
        "SECATEUR_BROKER_URL": broker_url,
        "SECATEUR_SECRET": "a pepper that only the tests know, long enough",
        "SECATEUR_STORE_URL": (tmp_path / "store").as_uri(),
        "SECATEUR_MODEL_ROOTS": str(tmp_path / "models"),
        "SECATEUR_WORK_DIR": str(tmp_path / "work"),
        "SECATEUR_HEARTBEAT_SECONDS": "0.5",
        "SECATEUR_LEASE_SECONDS": "3",
        "SECATEUR_REAPER_SECONDS": "0.5",
        "SECATEUR_DISPATCH_SECONDS": "0.1",
        "SECATEUR_NOTIFY_AGAIN_SECONDS": "3",
        "SECATEUR_CAUTION_SECONDS": "0",
        "SECATEUR_THREADS": "1",
        "SECATEUR_DEVICE": "cpu",
    }


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The same settings in this process, for code that asks for them itself."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _forget()
    yield get_settings()
    _forget()


@pytest.fixture
def engine(settings: Settings) -> Engine:
    """The process's engine on the test's database."""
    return database_module.get_engine()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on the test's database; what it commits stays until the test ends."""
    with database_module.get_session_factory()() as session:
        yield session


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    """The test's folder store."""
    return open_store(settings)


def _forget() -> None:
    """Drop the process-wide settings and connections of the test before."""
    if database_module.get_engine.cache_info().currsize:
        database_module.get_engine().dispose()
    for cached in (get_settings, database_module.get_engine, database_module.get_session_factory):
        cached.cache_clear()
