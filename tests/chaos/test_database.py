"""PostgreSQL is restarted, away for longer than a lease, full, or loses a commit: the work is done once.

Slow: a lost commit needs a database that loses one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.db.migrate import upgrade
from app.dispatch.housekeeping import reap_jobs
from app.local.servers import PostgresServer
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobAttempt, JobBlock, JobEvent
from app.tables.states import State
from app.tables.tasks import Task, TaskState
from app.tasks import service as tasks
from tests.chaos.proxy import Cut, Link, Proxy, proxy_to
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, Watch, driver, engines, make_tiny_jobs, wait_until
from worker.attempt import run_jobs
from worker.task_runner import run_tasks

pytestmark = pytest.mark.slow

TEMPLATE = "template_chaos"
BLOCKS = 8
"""Two stages of four blocks."""
DATABASE = "chaos"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of this module's own, because its tests stop it."""
    folder = tmp_path_factory.mktemp("postgres")
    with PostgresServer(folder, password="only here", durable=False) as server:
        upgrade(server.create_database(TEMPLATE))
        yield server


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with proxy_to(lambda: postgres.port) as proxy:
        yield proxy


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    yield postgres.create_database(DATABASE, template=TEMPLATE)
    postgres.drop_database(DATABASE)


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With a lease that a busy machine does not lose by itself."""
    return {**environment, "SECATEUR_LEASE_SECONDS": "8"}


@pytest.fixture
def jobs(session: Session, store: ObjectStore) -> JobMaker:
    return make_tiny_jobs(session, store, None)


@pytest.fixture
def undisturbed(jobs: JobMaker, session: Session, settings: Settings) -> str:
    """Manifest digest of a job that nothing happens to."""
    watch = Watch(session, jobs.make())
    run_jobs(settings, "here", SCRIPTED)
    assert watch.row.result is not None
    return str(watch.row.result["manifest_digest"])


def history(session: Session, watch: Watch) -> list[str | None]:
    """How the job's attempts ended; checked with it that its events have no gap and one end."""
    session.rollback()
    events = session.query(JobEvent).filter_by(job_id=watch.id).order_by(JobEvent.seq).populate_existing().all()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data.get("to") for event in events].count("succeeded") == 1
    rows = session.query(JobAttempt).filter_by(job_id=watch.id).order_by(JobAttempt.number).populate_existing()
    return [row.outcome for row in rows]


def restart(postgres: PostgresServer) -> None:
    postgres.stop()
    postgres.start()


def test_a_restart_in_the_middle_of_a_job_is_waited_out(
    postgres: PostgresServer,
    jobs: JobMaker,
    session: Session,
    environment: dict[str, str],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    patient = {**environment, "SECATEUR_LEASE_SECONDS": "30"}
    with driver(patient, tmp_path / "log", "slow"):
        watch.wait_for_blocks(2)
        session.close()
        restart(postgres)
        assert watch.wait_for_end() is State.succeeded
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["succeeded"]


def test_a_worker_outlives_a_database_that_is_away_for_longer_than_a_lease(
    postgres: PostgresServer,
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    """Its engine is killed, and it asks for work until it is answered; the next attempt goes on where it was."""
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(3)
        session.close()
        postgres.stop()
        wait_until(lambda: not engines(worker), 30)
        assert worker.is_running()
        postgres.start()
        before = committed(session, watch)
        # It asked for work until it got an answer: nothing, because its lease is still there.
        assert worker.wait(30) == 0
    wait_until(lambda: reap_jobs(settings) > 0)
    run_jobs(settings, "here", SCRIPTED)
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["worker_lost", "succeeded"]
    assert before.items() <= committed(session, watch).items(), "no committed block is computed again"


def committed(session: Session, watch: Watch) -> dict[tuple[int, int], int]:
    """Which attempt committed which block."""
    session.rollback()
    rows = session.query(JobBlock).filter_by(job_id=watch.id).populate_existing()
    return {(row.stage, row.block): row.attempt for row in rows}


def test_no_connection_is_left(
    postgres: PostgresServer,
    jobs: JobMaker,
    session: Session,
    environment: dict[str, str],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    patient = {**environment, "SECATEUR_LEASE_SECONDS": "30"}
    with driver(patient, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(1)
        with no_connection_free(postgres, worker):
            wait_until(lambda: b"trying again" in (tmp_path / "log").read_bytes())
        assert watch.wait_for_end() is State.succeeded
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["succeeded"]


@contextmanager
def no_connection_free(postgres: PostgresServer, worker: psutil.Process) -> Iterator[None]:
    """The worker loses its connections and gets no others."""
    ports = [
        each.laddr.port for each in worker.net_connections() if each.raddr and each.raddr.port == postgres.port
    ]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(%s)"
    with postgres._connect() as server:
        server.execute(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 0")
        assert server.execute(kill, [ports]).rowcount > 0
        yield
        server.execute(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT -1")


TERMINATE_AT_COMMIT = """
    CREATE SEQUENCE chaos_commits;
    CREATE FUNCTION chaos_terminate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- A sequence is not rolled back, so the next try gets another number.
        IF nextval('chaos_commits') IN ({numbers}) THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER chaos AFTER {what} DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW {when} EXECUTE FUNCTION chaos_terminate();
"""


@pytest.mark.parametrize(
    ("what", "when", "numbers"),
    [
        pytest.param("INSERT OR UPDATE ON job_blocks", "", "2, 5, 6", id="blocks"),
        pytest.param("UPDATE ON jobs", "WHEN (NEW.state = 'succeeded')", "1, 2", id="publishing"),
        pytest.param("INSERT ON job_leases", "", "1, 2", id="claim"),
    ],
)
def test_a_connection_killed_at_commit(
    jobs: JobMaker, session: Session, settings: Settings, undisturbed: str, what: str, when: str, numbers: str
) -> None:
    watch = Watch(session, jobs.make())
    session.execute(text(TERMINATE_AT_COMMIT.format(what=what, when=when, numbers=numbers)))
    session.commit()
    run_jobs(settings, "here", SCRIPTED)
    assert session.scalar(text("SELECT last_value FROM chaos_commits")) > 1, "the connection was killed"
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["succeeded"]


FORGET_ONE_BLOCK = """
    CREATE SEQUENCE chaos_commits;
    CREATE FUNCTION chaos_forget() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('chaos_commits') = 2 THEN
            DELETE FROM job_blocks WHERE (job_id, stage, block) = (NEW.job_id, NEW.stage, NEW.block);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos AFTER INSERT ON job_blocks FOR EACH ROW EXECUTE FUNCTION chaos_forget();
"""


def test_a_commit_that_the_database_forgets_costs_an_attempt_and_not_the_job(
    jobs: JobMaker, session: Session, settings: Settings, undisturbed: str
) -> None:
    """As after a failover to a replica that lagged behind: nothing is written behind the gap."""
    watch = Watch(session, jobs.make())
    session.execute(text(FORGET_ONE_BLOCK))
    session.commit()
    run_jobs(settings, "before", SCRIPTED)
    assert watch.blocks() == 1, "the second was forgotten, and the third refused"
    wait_until(lambda: reap_jobs(settings) > 0)
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    run_jobs(settings, "after", SCRIPTED)
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["worker_lost", "succeeded"]


def test_a_task_is_claimed_once_although_the_connection_is_killed(session: Session, settings: Settings) -> None:
    """The same on the CPU queue, where a claim is an update."""
    assert tasks.order_sweep_of_all(session, 0)
    what, when = "UPDATE ON tasks", "WHEN (NEW.state = 'running')"
    session.execute(text(TERMINATE_AT_COMMIT.format(what=what, when=when, numbers="1, 2")))
    session.commit()
    assert run_tasks(settings, "here") == 1
    assert session.scalar(text("SELECT last_value FROM chaos_commits")) > 2, "the connection was killed"
    task = session.scalars(select(Task)).one()
    assert (task.state, task.attempts) == (TaskState.succeeded, 1)


class LostAnswers:
    """Lets some commits through to the server and cuts the connection before their answers come."""

    def __init__(self, *which: int) -> None:
        self._which = which
        self._links: set[Link] = set()
        self.count = 0

    def upward(self, link: Link, data: bytes) -> bytes:
        if b"COMMIT" in data:
            self.count += 1
            if self.count in self._which:
                self._links.add(link)
        return data

    def downward(self, link: Link, data: bytes) -> bytes:
        if link in self._links:
            raise Cut
        return data


def test_a_commit_whose_answer_is_lost(
    postgres: PostgresServer,
    proxy: Proxy,
    jobs: JobMaker,
    session: Session,
    environment: dict[str, str],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    """The claim and every second write of the attempt are of unknown outcome; each is made once."""
    watch = Watch(session, jobs.make())
    answers = LostAnswers(1, *range(2, 100, 2))
    through = environment["SECATEUR_DATABASE_URL"].replace(f":{postgres.port}/", f":{proxy.port}/")
    with (
        proxy.misbehaving(upward=answers.upward, downward=answers.downward),
        driver({**environment, "SECATEUR_DATABASE_URL": through}, tmp_path / "log"),
    ):
        assert watch.wait_for_end() is State.succeeded
    assert answers.count > BLOCKS
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert history(session, watch) == ["succeeded"]
