"""Every call of the API has a method of the clients, which sends nothing that the API does not document and says
what that answers."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlsplit

import pytest

from app.main import create_app
from app.settings import Settings
from secateur import Client, answers
from secateur.client import BlockingProjects, BlockingWebhooks
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer

EXCEPTIONS = {
    "livez": "for whoever runs the service",
    "readyz": "the same",
    "describe_file": "the manifest says as much",
}
"""Operations without a method, and why."""

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MANIFEST = {
    "digest": hashlib.sha256(f"{SHA256}  model/config.json\n".encode()).hexdigest(),
    "files": [{"path": "model/config.json", "sha256": SHA256, "bytes": len(CONTENT)}],
}
FILTERS = {"stage": 0, "domain": "law", "block": 1, "matrix": "*", "lineage": True}
HISTORY = FILTERS | {"basis": "accumulated"}
COMPARED = {"part": "history", "stage": 0, "other_stage": 1, "matrix": "*"}
LISTED: dict[str, Any] = {
    "state": "queued",
    "method": "copal",
    "model": "mdl_1",
    "label": "a=b",
    "limit": 10,
    "created_after": "2026-01-01T00:00:00Z",
    "created_before": "2027-01-01T00:00:00Z",
    "continues": "job_1",
    "lineage": "job_1",
}

PLANNED = {name: LISTED[name] for name in ("method", "model", "limit", "created_after", "created_before")}

CALLS: dict[str, Callable[[Client, Path], Any]] = {
    "create_dataset": lambda c, at: c.add_hub_dataset("a", id="a/b"),
    "upload_dataset": lambda c, at: c.upload_dataset(_file(at / "a.jsonl.gz"), name="a", text_field="body"),
    "get_usage": lambda c, at: c.usage(),
    "list_datasets": lambda c, at: list(c.datasets(limit=10)),
    "get_dataset": lambda c, at: c.dataset("ds_1"),
    "delete_dataset": lambda c, at: c.delete_dataset("ds_1"),
    "create_model": lambda c, at: c.add_model("tiny", {"type": "folder", "path": "tiny"}),
    "list_model_files": lambda c, at: c.model_files("mdl_1"),
    "get_model_file": lambda c, at: c.model_file("mdl_1", "a.json"),
    "put_model_file": lambda c, at: c.upload_model(_file(at / "a.json").parent, model="mdl_1"),
    "presign_model_file": lambda c, at: c.presign_model_file("mdl_1", "a.json"),
    "complete_model": lambda c, at: c.complete_model("mdl_1"),
    "list_models": lambda c, at: list(c.models(limit=10)),
    "get_model": lambda c, at: c.model("mdl_1"),
    "delete_model": lambda c, at: c.delete_model("mdl_1"),
    "create_plan": lambda c, at: c.plan({}),
    "list_plans": lambda c, at: list(c.plans(**PLANNED)),
    "get_plan": lambda c, at: c.read_plan("pln_1"),
    "create_job": lambda c, at: c.submit({}),
    "list_jobs": lambda c, at: list(c.jobs(**LISTED)),
    "get_job": lambda c, at: c.wait("job_1", on_update=lambda _: None),
    "get_queue_place": lambda c, at: c.queue_place("job_1"),
    "change_job": lambda c, at: c.change("job_1", if_match='"1-0"', priority=1),
    "delete_job": lambda c, at: c.delete_job("job_1"),
    "cancel_job": lambda c, at: c.cancel("job_1"),
    "pause_job": lambda c, at: c.pause("job_1"),
    "resume_job": lambda c, at: c.resume("job_1"),
    "retry_job": lambda c, at: c.retry("job_1"),
    "list_events": lambda c, at: list(c.events("job_1", after=3)),
    "list_logs": lambda c, at: list(c.logs("job_1", after=3)),
    "list_last_logs": lambda c, at: c.last_logs("job_1", 5),
    "list_attempts": lambda c, at: list(c.attempts("job_1")),
    "list_stages": lambda c, at: list(c.stages("job_1")),
    "get_evaluation": lambda c, at: c.evaluation("job_1"),
    "list_matrices": lambda c, at: list(c.matrices("job_1", **FILTERS)),
    "get_lineage": lambda c, at: c.lineage("job_1"),
    "list_sensitivities": lambda c, at: list(c.sensitivity("job_1", **HISTORY)),
    "list_block_sensitivities": lambda c, at: list(c.block_sensitivity("job_1", **HISTORY)),
    "export_history": lambda c, at: c.export_history("job_1", at / "history.parquet", **HISTORY),
    "compare_jobs": lambda c, at: c.compare("job_1", "job_2", **COMPARED),
    "get_manifest": lambda c, at: c.manifest("job_1"),
    "verify_artifact": lambda c, at: c.verify_stored("job_1"),
    "download_file": lambda c, at: c.download("job_1", at / "pruned"),
    "export_state": lambda c, at: c.export_state("job_1", at / "state.tar"),
    "list_methods": lambda c, at: c.methods(),
    "whoami": lambda c, at: c.whoami(),
    "create_project": lambda c, at: c.projects.add("search", model_roots=[]),
    "list_projects": lambda c, at: list(c.projects.list(limit=10)),
    "get_project": lambda c, at: c.projects.read("prj_1"),
    "change_project": lambda c, at: c.projects.change("prj_1", disabled=True),
    "delete_project": lambda c, at: c.projects.delete("prj_1"),
    "create_key": lambda c, at: c.projects.add_key("prj_1", "ci", ["jobs:read"]),
    "list_keys": lambda c, at: list(c.projects.keys("prj_1", limit=10)),
    "get_key": lambda c, at: c.projects.key("prj_1", "key_1"),
    "change_key": lambda c, at: c.projects.rename_key("prj_1", "key_1", "new"),
    "rotate_key": lambda c, at: c.projects.rotate_key("prj_1", "key_1", grace_seconds=60),
    "revoke_key": lambda c, at: c.projects.revoke_key("prj_1", "key_1"),
    "put_hub_token": lambda c, at: c.projects.put_hub_token("prj_1", "hf_0123456789"),
    "get_hub_token": lambda c, at: c.projects.hub_token("prj_1"),
    "delete_hub_token": lambda c, at: c.projects.delete_hub_token("prj_1"),
    "list_audit_events": lambda c, at: list(c.audit(action="create_job", outcome="done", limit=10)),
    "create_webhook": lambda c, at: c.webhooks.add("https://hooks.example.com/", events=["transition"]),
    "list_webhooks": lambda c, at: list(c.webhooks.list(limit=10)),
    "get_webhook": lambda c, at: c.webhooks.read("whk_1"),
    "change_webhook": lambda c, at: c.webhooks.change("whk_1", enabled=False),
    "delete_webhook": lambda c, at: c.webhooks.delete("whk_1"),
    "rotate_webhook_secret": lambda c, at: c.webhooks.rotate("whk_1", keep_hours=0),
    "ping_webhook": lambda c, at: c.webhooks.test("whk_1"),
    "list_deliveries": lambda c, at: list(c.webhooks.deliveries("whk_1", state="failed", limit=10)),
    "get_delivery": lambda c, at: c.webhooks.delivery("whk_1", "msg_1"),
    "redeliver": lambda c, at: c.webhooks.redeliver("whk_1", "msg_1"),
}
"""What a caller of each operation writes."""


def _file(path: Path) -> Path:
    path.write_text('{"body": "text"}\n')
    return path


def _settings() -> Settings:
    places = {"database_url": "postgresql+psycopg://nowhere/none", "broker_url": "redis://nowhere"}
    return Settings(**places, secret="x" * 32, store_url="file:///nowhere")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def operations() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Method, path and description by operation id."""
    paths = create_app(_settings()).openapi()["paths"]
    return {
        each["operationId"]: (method.upper(), path, each)
        for path, item in paths.items()
        for method, each in item.items()
    }


def answer(request: Request) -> Reply:
    """Something that satisfies each of the client's methods."""
    path = urlsplit(request.path).path
    if request.method == "DELETE":
        return Reply(204, b"")
    if path.endswith("/model/config.json"):
        return Reply(200, CONTENT)
    if request.method == "PUT" and "/files/" in path:
        return Reply(204, b"")
    if request.method == "GET" and path.endswith("/files"):
        return Reply.json({"data": [{"path": "a.json", "bytes": 17, "received": 3}]})
    resource = {"id": "pln_1", "state": "failed", "data": [], "next_cursor": None, "history": None}
    return Reply.json(resource | MANIFEST)


def test_every_operation_has_a_method(operations: dict[str, Any]) -> None:
    assert set(CALLS) | set(EXCEPTIONS) == set(operations)
    assert not set(CALLS) & set(EXCEPTIONS)


@pytest.mark.parametrize("operation", CALLS)
def test_a_method_sends_what_is_documented(
    connect: Connect, operation: str, operations: dict[str, Any], scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.answer = answer
    with connect(scripted.url, "sctr_key", retry_seconds=0) as client:
        CALLS[operation](client, tmp_path)
    method, template, described = operations[operation]
    pattern = re.sub(r"\{path\}", ".+", re.sub(r"\{(?!path\})\w+\}", "[^/]+", template))
    sent = [each for each in scripted.requests if each.method == method and re.fullmatch(pattern, _path(each))]
    assert sent, json.dumps([(each.method, each.path) for each in scripted.requests])
    known = {each["name"] for each in described.get("parameters", ()) if each["in"] == "query"}
    assert {name for each in sent for name in parse_qs(urlsplit(each.path).query)} <= known


@pytest.mark.parametrize("operation", CALLS)
def test_a_method_says_what_its_operation_answers(operation: str, operations: dict[str, Any]) -> None:
    """Its return type is the answer's schema, or has rows of the page that this is."""
    responses = operations[operation][2]["responses"]
    contents = [answer.get("content", {}) for status, answer in responses.items() if status.startswith("2")]
    schemas = {each["application/json"]["schema"]["$ref"] for each in contents if "application/json" in each}
    names = {ROWS.get(each, each.removeprefix("Page_").removesuffix("_")) for each in map(_last, schemas)}
    with pytest.raises(Called) as called:
        CALLS[operation](cast("Client", Asked(Client)), Path())
    returned = inspect.signature(called.value.args[0]).return_annotation
    for name in names:
        type = getattr(answers, name)
        assert type == returned or type in get_args(returned), (name, returned)


class Called(Exception):
    """The method that a caller of an operation calls first."""


@dataclass(frozen=True)
class Asked:
    """Stands for a client that is asked for one of its methods."""

    kind: type

    def __getattr__(self, name: str) -> "Asked":
        if name in GROUPS:
            return Asked(GROUPS[name])
        raise Called(getattr(self.kind, name))


GROUPS: dict[str, type] = {"projects": BlockingProjects, "webhooks": BlockingWebhooks}
ROWS = {"UploadedFiles": "UploadedFileRead"}


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]


def _path(request: Request) -> str:
    return urlsplit(request.path).path
