"""The real HTTP service on a free port, and keys for it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import hypothesis
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from app.audit.refusals import Refusals
from app.auth.repository import ensure_project
from app.auth.scopes import ORDINARY
from app.auth.service import create_key
from app.backend import open_backend
from app.connections.limits import Patience
from app.db.engine import transaction
from app.main import create_app
from app.serve import Server
from app.settings import Settings
from tests.app.contract import check_documented
from tests.jobs import make_dataset, make_model

# The machine may be busy; what counts is what comes out.
hypothesis.settings.register_profile("app", hypothesis.settings.get_profile("any machine"), max_examples=50)
hypothesis.settings.load_profile("app")

MakeKey = Callable[..., str]
TLS = httpx.create_ssl_context()
"""One for all callers: each reads the machine's certificates otherwise."""


class ListeningServer(Server):
    """Says when it is listening."""

    def __init__(self, app: FastAPI, patience: Patience | None = None) -> None:
        super().__init__(app, "127.0.0.1", 0, patience)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.listening.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """URL of the application's server, stopped at the end."""
    with listening(app) as server:
        yield server.url


@contextmanager
def listening(app: FastAPI, patience: Patience | None = None) -> Iterator[ListeningServer]:
    """The application's server, stopped at the end."""
    server = ListeningServer(app, patience)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.listening.wait(30)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """URL of a service of its own, for settings that are not those of every test."""
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture(scope="session")
def application() -> Iterator[tuple[FastAPI, str]]:
    """The application and its URL, once for all tests: FastAPI builds its routes at the first request."""
    places = {"database_url": "postgresql+psycopg://nowhere/none", "broker_url": "redis://nowhere"}
    others = {"secret": "-" * 32, "store_url": "file:///nowhere", "rate_limits": False}
    app = create_app(Settings.model_validate(places | others))
    with serving(app) as url:
        yield app, url


@pytest.fixture
def service(application: tuple[FastAPI, str], settings: Settings) -> Iterator[str]:
    """URL of the running service, with the test's database and store behind it."""
    app, url = application
    app.state.backend = backend = open_backend(settings)
    app.state.refusals = Refusals()  # no test is told of another one's
    yield url
    backend.close()


@pytest.fixture
def make_key(settings: Settings) -> MakeKey:
    """Makes keys: project, scopes, expires_at."""

    def make(project: str = "ours", scopes: Any = ORDINARY, expires_at: Any = None) -> str:
        with transaction() as session:
            return create_key(session, project, "tests", scopes, expires_at).text

    return make


def client_of(url: str, key: str | None) -> httpx.Client:
    """A caller whose every answer is checked against the OpenAPI document."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    limits = httpx.Limits(max_connections=100)
    hooks = {"response": [check_documented]}
    return httpx.Client(
        base_url=url,
        headers=headers,
        timeout=60,
        limits=limits,
        trust_env=False,
        verify=TLS,
        event_hooks=hooks,
    )


@pytest.fixture
def api(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller with an ordinary key of the project `ours`."""
    with client_of(service, make_key()) as client:
        yield client


@pytest.fixture
def stranger(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    """A caller of another project."""
    with client_of(service, make_key("theirs")) as client:
        yield client


@pytest.fixture
def project(session: Session, make_key: MakeKey) -> str:
    """The id of the project `ours`."""
    id = ensure_project(session, "ours").id
    session.commit()
    return id


@dataclass(frozen=True)
class Inputs:
    """A ready model and two ready datasets of `ours`."""

    model: str
    first: str
    second: str

    def body(self, **changes: Any) -> dict[str, Any]:
        """A job over two domains, the second without evaluation text."""
        domains = [
            {"name": "law", "dataset": self.first, "evaluation": self.second},
            {"name": "code", "dataset": self.second},
        ]
        body = {"model": self.model, "method": {"name": "copal"}, "sparsity": {"target": 0.5}, "domains": domains}
        return {**body, **changes}


@pytest.fixture
def inputs(session: Session, project: str) -> Inputs:
    """What a job needs."""
    model = make_model(session, project)
    found = Inputs(model, make_dataset(session, project, "one"), make_dataset(session, project, "two"))
    session.commit()
    return found


@pytest.fixture
def job(api: httpx.Client, inputs: Inputs) -> str:
    """Id of a queued job of `ours`."""
    return str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
