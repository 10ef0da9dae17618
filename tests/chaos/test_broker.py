"""The broker is killed, flushed, frozen, half-open, or comes back empty: every queued job still runs, once.

Slow: what outlives a broker shows only with a broker that dies.
"""

import json
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import redis
from sqlalchemy.orm import Session

from app.auth.repository import ensure_project
from app.auth.scopes import ORDINARY
from app.auth.service import create_key
from app.local.ports import LOOPBACK
from app.local.servers import ValkeyServer
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import JobAttempt
from app.tables.states import State
from tests.app.conftest import running
from tests.chaos.proxy import Link, Proxy, proxy_to
from tests.jobs import CALIBRATION, SPEC, JobMaker
from tests.worker.harness import SCRIPTED, Watch, dispatcher, make_tiny_jobs, wait_until, worker

pytestmark = pytest.mark.slow

LEASE = 3.0
IN_TIME = 2 * LEASE
CLIENTS_NOTICE = 30.0
"""Seconds within which the clients of a broker have given up a dead connection and made another."""


@dataclass
class Broker:
    """A broker of the test's own; its clients reach it through a proxy."""

    server: ValkeyServer
    proxy: Proxy

    @property
    def url(self) -> str:
        return f"redis://:{self.server.password}@{LOOPBACK}:{self.proxy.port}/0"

    def ask(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)

    @contextmanager
    def killed(self) -> Iterator[None]:
        self.server.child.kill()
        yield
        self.server.start()

    @contextmanager
    def restarted_without_its_file(self) -> Iterator[None]:
        self.server.child.kill()
        shutil.rmtree(self.server.folder)
        yield
        self.server.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        frozen = psutil.Process(self.server.child.pid)
        frozen.send_signal(signal.SIGSTOP)
        yield
        frozen.send_signal(signal.SIGCONT)

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """No byte passes and no connection is closed; afterwards the old connections stay like that."""
        self.proxy.break_silently()

        def swallow(link: Link, data: bytes) -> bytes:
            link.swallowing = True
            return b""

        with self.proxy.misbehaving(upward=swallow, downward=swallow):
            yield


@dataclass
class House:
    """An API, a dispatcher and two workers around that broker."""

    broker: Broker
    session: Session
    jobs: JobMaker
    api: httpx.Client
    workers: list[psutil.Process]

    def submit(self) -> Watch:
        """One job, as a caller does it."""
        domains = [
            {"name": f"d{index}", "dataset": id, "calibration": CALIBRATION, "evaluation": self.jobs.evaluation}
            for index, id in enumerate(self.jobs.datasets)
        ]
        answer = self.api.post("/v1/jobs", json={**SPEC, "model": self.jobs.model, "domains": domains})
        assert answer.status_code == 201, answer.text
        return Watch(self.session, answer.json()["id"])

    def readiness(self) -> tuple[int, str]:
        answer = self.api.get("/readyz")
        return answer.status_code, answer.json()["status"]

    def attempts(self, watch: Watch) -> list[str | None]:
        self.session.rollback()
        rows = self.session.query(JobAttempt).filter_by(job_id=watch.id).order_by(JobAttempt.number)
        return [row.outcome for row in rows.populate_existing()]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with (
        ValkeyServer(tmp_path / "valkey", password=secrets.token_hex(8), log=tmp_path / "valkey.log") as server,
        proxy_to(lambda: server.port) as proxy,
    ):
        yield Broker(server, proxy)


@pytest.fixture
def environment(environment: dict[str, str], broker: Broker) -> dict[str, str]:
    engine = json.dumps([*SCRIPTED, "slow"])
    return {**environment, "SECATEUR_BROKER_URL": broker.url, "CHAOS_ENGINE": engine}


@pytest.fixture
def house(
    broker: Broker,
    environment: dict[str, str],
    settings: Settings,
    session: Session,
    store: ObjectStore,
    tmp_path: Path,
) -> Iterator[House]:
    jobs = make_tiny_jobs(session, store, None, domains=1)
    ensure_project(session, "ours")
    key = create_key(session, "ours", "tests", ORDINARY).text
    session.commit()
    with ExitStack() as stack:
        url = stack.enter_context(running(settings))
        stack.enter_context(dispatcher(environment, tmp_path / "dispatcher.log"))
        workers = [
            stack.enter_context(
                worker(environment, tmp_path / f"{name}.log", name=name, app="tests.chaos.workers")
            )
            for name in ("w1", "w2")
        ]
        headers = {"Authorization": f"Bearer {key}"}
        api = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False))
        house = House(broker, session, jobs, api, workers)
        first = [house.submit() for _ in range(2)]
        assert [watch.wait_for_end() for watch in first] == [State.succeeded] * 2
        yield house


Fault = Callable[[Broker], AbstractContextManager[None]]


@pytest.mark.parametrize(
    "fault", [Broker.killed, Broker.restarted_without_its_file, Broker.frozen, Broker.half_open]
)
def test_jobs_sent_while_the_broker_is_away_run_once_it_is_back(house: House, fault: Fault) -> None:
    at_work = house.submit()
    at_work.wait_for_blocks(1)
    with fault(house.broker):
        wait_until(lambda: house.readiness() == (200, "degraded"))
        waiting = [house.submit() for _ in range(2)]
        assert at_work.wait_for_end() is State.succeeded
    wait_until(lambda: all(watch.row.started_at for watch in waiting), IN_TIME + CLIENTS_NOTICE)
    assert [watch.wait_for_end() for watch in waiting] == [State.succeeded] * 2
    assert [house.attempts(watch) for watch in (at_work, *waiting)] == [["succeeded"]] * 3


def test_jobs_whose_messages_were_flushed_run(house: House) -> None:
    """The workers do not listen while the messages come, so that there is something to lose.

    Their children are stopped too: one that has just ended a job looks for the next without any message.
    """
    families = [member for parent in house.workers for member in (parent, *parent.children())]
    for process in families:
        process.send_signal(signal.SIGSTOP)
    waiting = [house.submit() for _ in range(2)]
    client = house.broker.ask()
    wait_until(lambda: all(watch.row.notified_at for watch in waiting))
    client.flushall()
    client.close()
    for process in families:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: all(watch.row.started_at for watch in waiting), IN_TIME + CLIENTS_NOTICE)
    assert [watch.wait_for_end() for watch in waiting] == [State.succeeded] * 2
    assert [house.attempts(watch) for watch in waiting] == [["succeeded"]] * 2
