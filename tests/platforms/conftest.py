"""A service that a platform talks to: the real API, and a real worker whose engine follows a script."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.storage import ObjectStore
from secateur import Client
from tests import tiny
from tests.app.conftest import MakeKey, application, make_key, project, service  # noqa: F401
from tests.jobs import CALIBRATION, make_dataset, make_model
from tests.worker.harness import SCRIPTED, process


@dataclass(frozen=True)
class Platform:
    """A service, a key for it, and what a job needs."""

    url: str
    key: str
    model: str
    text: str
    start_worker: Callable[..., AbstractContextManager[Any]]

    @property
    def variables(self) -> dict[str, str]:
        """What a program's environment has to have: where the service is, and the command line."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"SECATEUR_URL": self.url, "SECATEUR_API_KEY": self.key, "NO_PROXY": "*", "PATH": path}

    def client(self) -> Client:
        return Client(self.url, self.key)

    def spec(self, **changes: Any) -> dict[str, Any]:
        """Of a job over two domains, the first of which is measured: by the script 10 for the dense model, and one
        more after each stage."""
        domains = [{"name": f"d{number}", "dataset": self.text, "calibration": CALIBRATION} for number in range(2)]
        domains[0]["evaluation"] = self.text
        spec = {"model": self.model, "method": {"name": "wanda"}, "sparsity": {"target": 0.5}, "domains": domains}
        return {**spec, **changes}


@pytest.fixture
def platform(
    service: str,  # noqa: F811
    project: str,  # noqa: F811
    make_key: MakeKey,  # noqa: F811
    session: Session,
    store: ObjectStore,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Platform:
    """A service without a worker so far; this process's environment names it, too."""
    model = make_model(session, project, tiny.make_tiny_llama(tmp_path / "tiny"), store)
    text = make_dataset(session, project, tiny.text(800, 0), store)
    session.commit()

    def start(engine: Sequence[str] = SCRIPTED) -> AbstractContextManager[Any]:
        command = [sys.executable, "-m", "tests.platforms.worker", *engine]
        # Longer than a busy machine may take: nobody is here who gives a lost job to another worker.
        return process(command, environment | {"SECATEUR_LEASE_SECONDS": "120"}, tmp_path / "worker.log")

    found = Platform(service, make_key(), model, text, start)
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def worker(platform: Platform) -> Iterator[None]:
    """One that takes jobs."""
    with platform.start_worker():
        yield
