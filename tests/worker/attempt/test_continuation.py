"""The real engine: two domains, and later one more, are the same to the bit as three domains in one job.

Slow: that bytes are equal shows only when the real engine has written them.
"""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.history.evaluation import matrix_of
from app.jobs.repository import evaluations
from app.lineage.stages import history_of
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.states import State
from tests import tiny
from tests.jobs import JobMaker
from tests.worker.harness import Watch, make_tiny_jobs
from worker.attempt import run_jobs
from worker.attempt.card import PATH as CARD

BLOCKS = 2
METHODS: list[dict[str, Any]] = [
    {"name": "copal", "weight_update": "admm"},
    {"name": "wanda", "mode": "sequential"},
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def jobs(session: Session, store: ObjectStore, tmp_path: Path) -> JobMaker:
    model = tiny.make_tiny_llama(tmp_path / "tiny", blocks=BLOCKS, hidden=48)
    return make_tiny_jobs(session, store, model, domains=3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_a_continuation_is_what_one_job_would_have_been(
    jobs: JobMaker, session: Session, settings: Settings, method: dict[str, Any]
) -> None:
    whole = Watch(session, jobs.make(method=method))
    texts = jobs.datasets
    jobs.datasets = texts[:2]
    parent = Watch(session, jobs.make(method=method))
    assert run_jobs(settings, "first") == 2
    child = Watch(session, jobs.go_on(parent.id, texts[2]))
    assert run_jobs(settings, "months later") == 1
    assert (child.state, child.row.failure) == (State.succeeded, None)
    once, later = whole.row.result, child.row.result
    assert once is not None
    assert later is not None
    for name in ("masks_sha256", "weights_sha256", "sparsity", "bwt", "mean_perplexity"):
        assert later[name] == once[name], name
    pruned = [_files(watch, "model/") for watch in (whole, child)]
    cards = [files.pop(CARD) for files in pruned]
    assert pruned[0] == pruned[1]
    assert cards[0] != cards[1], "a card says what was continued"
    rows = [_rows(session, watch) for watch in (whole, child)]
    assert rows[1][0] == rows[0][0], "the dense model's"
    assert rows[1][3] == rows[0][3], "the last stage's"
    assert [row["d2"] for row in rows[1][1:3]] == [None, None], "d2 was not there yet"
    assert [row["d0"] for row in rows[1]] == [row["d0"] for row in rows[0]]


def _files(watch: Watch, prefix: str) -> dict[str, str]:
    manifest = watch.row.manifest
    assert manifest is not None
    return {file["path"]: file["sha256"] for file in manifest["files"] if file["path"].startswith(prefix)}


def _rows(session: Session, watch: Watch) -> list[dict[str, float | None]]:
    row = watch.row
    found = matrix_of(row.id, history_of(session, row), evaluations(session, row.id))
    assert (found.bwt is None, found.not_measured) == (False, [])
    return [each.perplexity for each in found.rows]
