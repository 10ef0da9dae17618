"""Jobs for the scripted engine, and a worker's turn at them; files whose jobs need more have their own."""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, make_tiny_jobs
from worker.attempt import run_jobs


@pytest.fixture
def jobs(session: Session, store: ObjectStore) -> JobMaker:
    return make_tiny_jobs(session, store, None)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a lease that a busy machine does not lose by itself: a worker in the test's own process does not die.

    Those in processes of their own, which do, have the short one of `environment`.
    """
    return settings.model_copy(update={"lease_seconds": 60.0})


@pytest.fixture
def run(settings: Settings) -> Callable[..., int]:
    """how: to the engine. Keywords: settings."""
    return lambda *how, **changes: run_jobs(settings.model_copy(update=changes), "here", [*SCRIPTED, *how])
