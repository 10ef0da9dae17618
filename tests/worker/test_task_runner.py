"""The CPU queue's worker: what was deleted is dropped, however slowly the hub sends, and plans need not wait."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.models import service as models
from app.models.schemas import ModelCreate
from app.settings import Settings, get_settings
from app.tables.models import Model
from app.tables.tasks import Task, TaskKind
from app.tasks import service
from tests.jobs import make_model, make_project
from worker.task_runner import run_tasks

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
SILENT, HEADERS, BODY = b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", HEAD + b'{"id": "'


class SlowHub:
    """Sends a beginning, then a byte now and then, or nothing at all; says when it was asked and when left."""

    def __init__(self, beginning: bytes) -> None:
        self.asked, self.left = threading.Event(), threading.Event()
        self._beginning = beginning
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    @contextmanager
    def serving(self) -> Iterator["SlowHub"]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.close()

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with closing(connection):
            connection.recv(65536)
            connection.sendall(self._beginning)
            self.asked.set()
            connection.settimeout(0.1)
            while True:
                try:
                    if self._beginning:
                        connection.sendall(b"x")
                    if connection.recv(65536) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
        self.left.set()


@pytest.fixture
def settings_of_hub(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    yield monkeypatch
    get_settings.cache_clear()


@pytest.mark.parametrize("beginning", [SILENT, HEADERS, BODY], ids=["silent", "in_its_head", "in_its_body"])
def test_an_intake_ends_with_its_model(
    session: Session, settings_of_hub: pytest.MonkeyPatch, beginning: bytes
) -> None:
    project = make_project(session)
    session.commit()
    hub = SlowHub(beginning)
    settings_of_hub.setenv("SECATEUR_HF_ENDPOINT", hub.url)
    get_settings.cache_clear()
    body = ModelCreate.model_validate({"name": "a", "source": {"type": "hub", "id": "some/model"}})
    with transaction() as other:
        model = models.register(other, project, body, get_settings()).id
    with hub.serving(), ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_tasks, get_settings(), "w")
        assert hub.asked.wait(60)
        with transaction() as other:
            models.delete(other, project, model)
        assert hub.left.wait(60), "the hub would have gone on for ever"
        assert running.result(60) == 1
    session.rollback()
    assert session.scalars(select(Task)).all() == []
    assert session.scalars(select(Model)).all() == []


def test_a_worker_for_plans_passes_by_a_slow_intake(session: Session, settings: Settings) -> None:
    project = make_project(session)
    waiting = make_model(session, project, state="pending")
    intake = service.submit(session, project, TaskKind.model_intake, waiting).id
    plan = service.submit(session, project, TaskKind.plan, "pln_gone").id
    session.commit()
    assert run_tasks(settings, "w", [TaskKind.plan]) == 1
    session.rollback()
    assert session.get_one(Task, plan, populate_existing=True).state == "succeeded"
    assert session.get_one(Task, intake, populate_existing=True).state == "queued"
