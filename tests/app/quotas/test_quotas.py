"""No project has more than it may, however many calls come at once; what is refused says what it would need."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.claim import claim
from app.quotas import service
from app.quotas.catalogue import Quota
from app.settings import get_settings
from app.tables.datasets import Dataset
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.tasks import Task, TaskState
from tests.app.conftest import Inputs
from tests.jobs import make_model, make_project

HUB = {"name": "law", "hub": {"id": "someone/law"}}
MODEL = {"name": "tiny", "source": {"type": "hub", "id": "someone/tiny"}}

SetQuota = Callable[..., None]


@pytest.fixture
def set_quota(project: str) -> SetQuota:
    """Sets quotas of `ours`, as an operator does."""

    def act(**quotas: int | None) -> None:
        with transaction() as session:
            service.change(session, project, None, {Quota(name): value for name, value in quotas.items()})

    return act


def many(call: Callable[[], httpx.Response], count: int = 50) -> list[int]:
    with ThreadPoolExecutor(16) as pool:
        return sorted(each.status_code for each in pool.map(lambda _: call(), range(count)))


def count(session: Session, table: Any, *where: Any) -> int:
    session.commit()
    return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


def test_fifty_jobs_at_once_make_five(
    api: httpx.Client, inputs: Inputs, session: Session, set_quota: SetQuota
) -> None:
    set_quota(queued_jobs=5)
    assert many(lambda: api.post("/v1/jobs", json=inputs.body())) == [201] * 5 + [429] * 45
    assert count(session, Job) == 5


@pytest.mark.parametrize(("path", "body", "table"), [("/v1/models", MODEL, Model), ("/v1/datasets", HUB, Dataset)])
def test_fifty_intakes_at_once_make_five(
    api: httpx.Client, session: Session, set_quota: SetQuota, path: str, body: Any, table: Any
) -> None:
    set_quota(pending_tasks=5)
    found = many(lambda: api.post(path, json=body))
    assert found == [found[0]] * 5 + [429] * 45
    assert (count(session, Task), count(session, table)) == (5, 5), "what is refused leaves nothing behind"


def test_fifty_plans_at_once_make_five(
    api: httpx.Client, inputs: Inputs, session: Session, set_quota: SetQuota
) -> None:
    set_quota(pending_tasks=5)
    assert many(lambda: api.post("/v1/plans", json=inputs.body())) == [202] * 5 + [429] * 45
    assert count(session, Task) == 5


def test_a_refusal_names_quota_limit_and_use(api: httpx.Client, inputs: Inputs, set_quota: SetQuota) -> None:
    set_quota(queued_jobs=1)
    api.post("/v1/jobs", json=inputs.body())
    refused = api.post("/v1/jobs", json=inputs.body())
    problem = refused.json()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert (problem["code"], problem["quota"], problem["limit"], problem["used"]) == (
        "quota_exceeded",
        "queued_jobs",
        1,
        1,
    )


def test_a_paused_job_waits_and_a_cancelled_one_does_not(
    api: httpx.Client, inputs: Inputs, set_quota: SetQuota
) -> None:
    """Else whoever pauses could queue for ever."""
    set_quota(queued_jobs=1)
    first = api.post("/v1/jobs", json=inputs.body()).json()["id"]
    api.post(f"/v1/jobs/{first}/pause")
    assert api.post("/v1/jobs", json=inputs.body()).status_code == 429
    assert api.post(f"/v1/jobs/{first}/resume").is_success
    api.post(f"/v1/jobs/{first}/cancel")
    assert api.post("/v1/jobs", json=inputs.body()).status_code == 201
    assert api.post(f"/v1/jobs/{first}/retry").status_code == 429


def test_a_running_job_leaves_room(api: httpx.Client, inputs: Inputs, set_quota: SetQuota) -> None:
    set_quota(queued_jobs=1)
    api.post("/v1/jobs", json=inputs.body())
    with transaction() as session:
        assert claim(session, "w", 60) is not None
    assert api.post("/v1/jobs", json=inputs.body()).status_code == 201
    found = api.get("/v1/usage").json()["quotas"]
    assert (found["queued_jobs"]["used"], found["running_jobs"]["used"]) == (1, 1)


@pytest.mark.parametrize("call", ["job", "retry", "model", "dataset"])
def test_who_has_stored_enough_makes_nothing_that_stores(
    api: httpx.Client, inputs: Inputs, session: Session, set_quota: SetQuota, call: str
) -> None:
    job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
    api.post(f"/v1/jobs/{job}/cancel")
    session.execute(update(Job).values(stored_bytes=600))
    session.execute(update(Model).values(bytes=300))
    session.execute(update(Dataset).values(bytes=50))
    session.commit()
    set_quota(stored_bytes=1000)
    calls = {
        "job": lambda: api.post("/v1/jobs", json=inputs.body()),
        "retry": lambda: api.post(f"/v1/jobs/{job}/retry"),
        "model": lambda: api.post("/v1/models", json=MODEL),
        "dataset": lambda: api.post("/v1/datasets", json=HUB),
    }
    refused = calls[call]()
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (507, "storage_quota_exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == ("stored_bytes", 1000, 1000)
    assert "retry-after" not in refused.headers, "waiting does not help"
    set_quota(stored_bytes=1001)
    assert calls[call]().status_code in (201, 202)


def test_what_is_deleted_stores_nothing(
    api: httpx.Client, inputs: Inputs, session: Session, set_quota: SetQuota
) -> None:
    session.execute(update(Dataset).values(bytes=500))
    session.commit()
    set_quota(stored_bytes=1000)
    assert api.post("/v1/datasets", json=HUB).status_code == 507
    assert api.delete(f"/v1/datasets/{inputs.first}").status_code == 204
    assert api.post("/v1/datasets", json=HUB).status_code == 202


def test_each_project_has_its_own(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, set_quota: SetQuota
) -> None:
    set_quota(pending_tasks=0)
    assert api.post("/v1/models", json=MODEL).status_code == 429
    assert stranger.post("/v1/models", json=MODEL).is_success
    ours, theirs = (each.get("/v1/usage").json() for each in (api, stranger))
    assert ours["project"] != theirs["project"]
    assert (ours["quotas"]["pending_tasks"]["used"], ours["quotas"]["pending_tasks"]["limit"]) == (0, 0)
    assert (theirs["quotas"]["pending_tasks"]["used"], theirs["quotas"]["pending_tasks"]["limit"]) == (1, 100)


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A service that lets each project wait with two jobs."""
    monkeypatch.setenv("SECATEUR_QUOTA_QUEUED_JOBS", "2")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_an_own_quota_goes_before_the_setting(
    fewer: None, api: httpx.Client, inputs: Inputs, set_quota: SetQuota
) -> None:
    assert many(lambda: api.post("/v1/jobs", json=inputs.body()), 4) == [201, 201, 429, 429]
    set_quota(queued_jobs=None)
    assert many(lambda: api.post("/v1/jobs", json=inputs.body()), 4) == [201] * 4
    assert api.get("/v1/usage").json()["quotas"]["queued_jobs"] == {
        "used": 6,
        "limit": None,
        "counts": "jobs that wait: queued or paused",
    }


def test_changing_one_quota_leaves_the_others_and_the_share(session: Session) -> None:
    project = make_project(session)
    make_model(session, project)
    service.change(session, project, 2.5, {Quota.uploads: 1})
    service.change(session, project, None, {Quota.queued_jobs: 7})
    limits = service.read_limits(session, project)
    assert (limits[Quota.uploads], limits[Quota.queued_jobs]) == (1, 7)
    service.change(session, project, 0.5, {Quota.queued_jobs: None})
    assert service.read_limits(session, project)[Quota.queued_jobs] is None
    from app.tables.accounts import ProjectAccount

    assert session.scalars(select(ProjectAccount.share)).one() == 0.5


def test_the_empty_text_is_no_limit(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setenv("SECATEUR_QUOTA_STORED_BYTES", "")
    get_settings.cache_clear()
    assert get_settings().quota_stored_bytes is None


def test_copies_of_finished_jobs_keep_nobody_from_asking(
    api: httpx.Client, session: Session, project: str, set_quota: SetQuota
) -> None:
    """A publication is no call of anybody's, and may wait for a slow store."""
    for state in (TaskState.queued, TaskState.running):
        for number in range(3):
            subject = f"job_{state}_{number}"
            session.add(
                Task(id=f"tsk_{subject}", project_id=project, kind="publication", subject_id=subject, state=state)
            )
    session.commit()
    set_quota(pending_tasks=1)
    found = {each.quota: each.used for each in service.usage(session, project)}
    session.rollback()
    assert (found[Quota.pending_tasks], found[Quota.running_intakes]) == (0, 0)
    assert api.post("/v1/models", json=MODEL).status_code == 202
