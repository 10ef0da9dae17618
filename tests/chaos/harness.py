"""A whole service in one folder, made to be broken: servers, API, dispatcher, two GPU workers, the real engine."""

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import httpx
import psycopg

from app.db.engine import transaction
from app.db.migrate import upgrade
from app.local.children import Child
from app.local.ports import LOOPBACK, free_ports
from app.local.servers import PostgresServer, ValkeyServer
from app.local.services import python_environment
from tests import tiny
from tests.chaos.parts import Part, SteadySeaweed
from tests.worker.harness import wait_until

BUCKET: Final = "chaos"
WORKERS: Final = ("worker-1", "worker-2")
BLOCKS: Final = 8
DOMAINS: Final = ("first", "second")
CALIBRATION: Final = {"samples": 16, "sequence_length": 64, "seed": 0}
ADMM: Final = {"iterations": 80, "mask_steps": 50}
METHODS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "copal", "weight_update": "admm", "admm": ADMM, "refine": "none"},
    {"name": "admm", "admm": ADMM, "refine": "none"},
)
"""Of the jobs, in turn; so slow that a block is well worth a fault, and each block is committed once."""
TIMES: Final = {
    "SECATEUR_LEASE_SECONDS": "3",
    "SECATEUR_HEARTBEAT_SECONDS": "0.5",
    "SECATEUR_REAPER_SECONDS": "0.5",
    "SECATEUR_DISPATCH_SECONDS": "0.1",
    "SECATEUR_NOTIFY_AGAIN_SECONDS": "1.5",
    "SECATEUR_STORE_RETRY_SECONDS": "60",
    "SECATEUR_MAX_ATTEMPTS": "5",
    "SECATEUR_CAUTION_SECONDS": "0.5",
}
AUDIT: Final = """
    CREATE TABLE chaos_commits (
        job text, stage int, block int, attempt int, fence bigint, at timestamptz DEFAULT clock_timestamp()
    );
    CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_commits VALUES (NEW.job_id, NEW.stage, NEW.block, NEW.attempt, NEW.fence);
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos AFTER INSERT OR UPDATE ON job_blocks FOR EACH ROW EXECUTE FUNCTION chaos_note();
"""
"""Each commit of a block, also those that a later one has overwritten."""


@dataclass
class House:
    """As a context manager it is built, and left without a process."""

    folder: Path
    draw: Random
    """For the pauses before a dead part is started again."""
    methods: Sequence[dict[str, Any]] = METHODS
    parts: dict[str, Part] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.ledger.touch()
        self.postgres = PostgresServer(self.folder / "postgres", password=secrets.token_hex(8), durable=False)
        self.valkey = ValkeyServer(self.folder / "valkey", password=secrets.token_hex(8))
        self.seaweed = SteadySeaweed(
            self.folder / "seaweed", bucket=BUCKET, access_key="chaos", secret_key=secrets.token_hex(8)
        )
        (self.port,) = free_ports()
        try:
            for server in (self.postgres, self.valkey, self.seaweed):
                port = partial(getattr, server, "port")
                self._add(Part(server.child.name, server.child, server.start, self.draw, port))
            self.settings = self._settings()
            os.environ.update(self.settings)
            self.key = self._furnish()
            for child in self._children():
                self._add(Part(child.name, child, child.start, self.draw))
            wait_until(lambda: self.call("GET", "/readyz") is not None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.parts.values()):
            part.end()

    @property
    def ledger(self) -> Path:
        """What the engines have solved."""
        return self.folder / "ledger"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def submit(self, number: int) -> str | None:
        """Job of that number, made once however often this is called; None when the API does not answer."""
        domains = [
            {"name": name, "dataset": self.inputs["datasets"][index], "evaluation": self.inputs["evaluation"]}
            | {"calibration": CALIBRATION}
            for index, name in enumerate(DOMAINS)
        ]
        body = {
            "model": self.inputs["model"],
            "method": self.methods[number % len(self.methods)],
            "sparsity": {"target": 0.5},
            "domains": domains,
            "evaluation": {"sequence_length": 64, "max_windows": 2},
            "labels": {"number": str(number)},
        }
        answer = self.call("POST", "/v1/jobs", headers={"Idempotency-Key": f"job-{number}"}, json=body)
        return None if answer is None else str(answer["id"])

    def call(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        """The API's answer, or None when it has none now."""
        all_headers = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        with suppress(httpx.TransportError):
            url = f"http://{LOOPBACK}:{self.port}{path}"
            answer = httpx.request(method, url, headers=all_headers, timeout=5, trust_env=False, **more)
            assert answer.status_code < 400 or answer.status_code in (409, 500, 503), answer.text
            return answer.json() if answer.is_success else None
        return None

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]] | None:
        """Rows straight from the database; None when it is away."""
        url = self.postgres.url.replace("+psycopg", "")
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(url, connect_timeout=2, options="-c statement_timeout=2s") as connection,
        ):
            return connection.execute(statement, parameters).fetchall()
        return None

    def _add(self, part: Part) -> None:
        self.parts[part.name] = part
        part.begin()

    def _settings(self) -> dict[str, str]:
        return TIMES | {
            "SECATEUR_DATABASE_URL": self.postgres.url,
            "SECATEUR_BROKER_URL": self.valkey.url,
            "SECATEUR_SECRET": secrets.token_hex(32),
            "SECATEUR_STORE_URL": f"s3://{BUCKET}/objects",
            "SECATEUR_S3_ENDPOINT": self.seaweed.url,
            "SECATEUR_S3_ACCESS_KEY_ID": self.seaweed.access_key,
            "SECATEUR_S3_SECRET_ACCESS_KEY": self.seaweed.secret_key,
            "SECATEUR_WORK_DIR": str(self.work),
            "SECATEUR_THREADS": "1",
            "SECATEUR_DEVICE": "cpu",
            "CHAOS_ENGINE": json.dumps([sys.executable, "-P", "-m", "tests.chaos.engine", str(self.ledger)]),
        }

    def _furnish(self) -> str:
        """A migrated database with a key, a model and texts; the key."""
        from app.auth.scopes import ORDINARY
        from app.auth.service import create_key
        from app.settings import get_settings
        from app.storage import open_store
        from tests.jobs import make_dataset, make_model, make_project

        upgrade(self.postgres.url)
        store = open_store(get_settings())
        model = tiny.make_tiny_llama(self.folder / "model", blocks=BLOCKS)
        with transaction() as session:
            project = make_project(session, "chaos")
            self.inputs["model"] = make_model(session, project, model, store)
            texts = [make_dataset(session, project, tiny.text(2000, seed), store) for seed in range(len(DOMAINS))]
            self.inputs["datasets"] = texts
            self.inputs["evaluation"] = make_dataset(session, project, tiny.text(800, 99), store)
            key = create_key(session, "chaos", "chaos", ORDINARY).text
        with psycopg.connect(self.postgres.url.replace("+psycopg", "")) as connection:
            connection.execute(AUDIT)
        return key

    def _children(self) -> list[Child]:
        serve = ("app.serve", "--host", LOOPBACK, "--port", str(self.port))
        work = ("celery", "-A", "tests.chaos.workers", "worker", "-Q", "gpu", "-c", "1", "--loglevel", "INFO")
        lean = ("--without-gossip", "--without-mingle")
        workers = [self._child(name, *work, *lean, "-n", f"{name}@chaos") for name in WORKERS]
        return [self._child("api", *serve), self._child("dispatcher", "app.dispatch"), *workers]

    def _child(self, name: str, *arguments: str) -> Child:
        environment = python_environment() | self.settings | {"REMAP_SIGTERM": "SIGQUIT"}
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", *arguments]
        return Child(name, command, log, environment=environment, directory=self.folder)
