"""Every call that makes something, ready to be sent."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from app.auth.scopes import Scope
from app.auth.service import KeyRequest, make_key
from app.kit.ids import Prefix, new_id
from app.tables.audit import AuditEvent
from app.tables.auth import ApiKey, Project
from app.tables.datasets import Dataset
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.plans import Plan
from app.tables.tasks import Task
from app.tables.webhooks import Webhook, WebhookDelivery
from tests.app.conftest import Inputs


@dataclass(frozen=True)
class Creation:
    """A call that makes one row. other: the same call with another body, None where it has no body."""

    path: str
    rows: Select[Any]
    call: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] | None = None

    def send(self, api: httpx.Client, key: str, **changes: Any) -> httpx.Response:
        call = {**self.call, **changes}
        return api.post(self.path, **{**call, "headers": {**call.get("headers", {}), "Idempotency-Key": key}})

    def count(self, session: Session) -> int:
        session.rollback()
        return int(session.scalar(self.rows) or 0)


Make = Callable[[Inputs, Session], Creation]


def _count(table: Any, *conditions: Any) -> Select[Any]:
    return select(func.count()).select_from(table).where(*conditions)


def _job(inputs: Inputs, _: Session) -> Creation:
    return Creation("/v1/jobs", _count(Job), {"json": inputs.body()}, {"json": inputs.body(priority=3)})


def _retry(inputs: Inputs, session: Session) -> Creation:
    job = session.scalars(select(Job.id)).first()
    session.execute(update(Job).values(state="cancelled"))
    session.commit()
    return Creation(f"/v1/jobs/{job}/retry", _count(Job, Job.retry_of == job))


def _plan(inputs: Inputs, _: Session) -> Creation:
    return Creation("/v1/plans", _count(Plan), {"json": inputs.body()}, {"json": inputs.body(priority=3)})


def _model(_: Inputs, __: Session) -> Creation:
    body = {"name": "new", "source": {"type": "hub", "id": "team/model"}}
    return Creation(
        "/v1/models", _count(Model, Model.name == "new"), {"json": body}, {"json": {**body, "name": "n"}}
    )


def _hub_dataset(_: Inputs, __: Session) -> Creation:
    body = {"name": "new", "hub": {"id": "team/text"}}
    rows = _count(Dataset, Dataset.name == "new")
    return Creation("/v1/datasets", rows, {"json": body}, {"json": {**body, "name": "n"}})


def _upload(_: Inputs, __: Session) -> Creation:
    rows = _count(Dataset, Dataset.name == "new")
    call = {"params": {"name": "new", "format": "txt"}, "headers": {"Content-Type": "application/octet-stream"}}
    return Creation("/v1/datasets/upload", rows, {**call, "content": b"A text."}, {"content": b"Another text."})


def _project(_: Inputs, __: Session) -> Creation:
    rows = _count(Project, Project.name == "new")
    return Creation("/v1/projects", rows, {"json": {"name": "new"}}, {"json": {"name": "newer"}})


def _key(_: Inputs, session: Session) -> Creation:
    body = {"name": "new", "scopes": ["jobs:read"]}
    path = f"/v1/projects/{_ours(session)}/keys"
    return Creation(path, _count(ApiKey, ApiKey.name == "new"), {"json": body}, {"json": {**body, "name": "n"}})


def _rotation(_: Inputs, session: Session) -> Creation:
    project = _ours(session)
    with session.begin():
        key = make_key(session, project, KeyRequest("ci", (Scope.jobs_read,)), "a pepper of nobody").key.id
    rows = _count(AuditEvent, AuditEvent.action == "rotate_key")
    return Creation(
        f"/v1/projects/{project}/keys/{key}/rotate", rows, {"json": {}}, {"json": {"grace_seconds": 0}}
    )


def _webhook(_: Inputs, __: Session) -> Creation:
    body = {"url": "https://hooks.example.com/secateur"}
    other = {**body, "description": "another"}
    return Creation("/v1/webhooks", _count(Webhook), {"json": body}, {"json": other})


def _webhook_secret(_: Inputs, session: Session) -> Creation:
    rows = _count(AuditEvent, AuditEvent.action == "rotate_webhook_secret")
    return Creation(f"/v1/webhooks/{_some_webhook(session)}/rotate", rows)


def _ping(_: Inputs, session: Session) -> Creation:
    return Creation(f"/v1/webhooks/{_some_webhook(session)}/test", _count(WebhookDelivery))


def _some_webhook(session: Session) -> str:
    webhook = Webhook(id=new_id(Prefix.webhook), project_id=_ours(session), url="https://hooks.example.com/x")
    with session.begin():
        session.add(webhook)
    return webhook.id


def _ours(session: Session) -> str:
    project = session.scalars(select(Project.id).where(Project.name == "ours")).one()
    session.rollback()
    return project


def _uploaded_model(_: Inputs, session: Session) -> Creation:
    source = {"type": "upload", "files": []}
    model = Model(
        id=new_id(Prefix.model), project_id=_ours(session), name="sent", state="uploading", source=source
    )
    with session.begin():
        session.add(model)
    return Creation(f"/v1/models/{model.id}/complete", _count(Task, Task.kind == "model_intake"))


CREATIONS: Final[dict[str, tuple[str, Make]]] = {
    "job": ("create_job", _job),
    "retry": ("retry_job", _retry),
    "plan": ("create_plan", _plan),
    "model": ("create_model", _model),
    "uploaded model": ("complete_model", _uploaded_model),
    "dataset of the hub": ("create_dataset", _hub_dataset),
    "uploaded dataset": ("upload_dataset", _upload),
    "project": ("create_project", _project),
    "key": ("create_key", _key),
    "rotation": ("rotate_key", _rotation),
    "webhook": ("create_webhook", _webhook),
    "webhook's secret": ("rotate_webhook_secret", _webhook_secret),
    "ping": ("ping_webhook", _ping),
}
"""By what is made: the call's operation, and how it is sent."""

MAKE_NOTHING: Final = {
    "cancel_job",
    "pause_job",
    "resume_job",
    "verify_artifact",
    "redeliver",
    "presign_model_file",
}
"""POSTs that may be repeated as they are."""
