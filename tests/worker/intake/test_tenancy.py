"""What an intake may use is its own project's: token of the hub and model roots."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.auth import hub_tokens
from app.kit.ids import Prefix, new_id
from app.settings import Settings
from app.tables.auth import Project
from app.tables.datasets import Dataset
from app.tables.tasks import TaskKind
from tests.worker.intake.hub_server import Hub
from worker.intake.context import Context
from worker.intake.hub import HubFile, open_repo
from worker.intake.models import take_model
from worker.intake.runner import run
from worker.model_files.errors import IntakeError

TOKEN = "hf_of_the_project_alone"


def make_project(session: Session, **more: Any) -> str:
    project = Project(id=new_id(Prefix.project), name=new_id(Prefix.project), **more)
    session.add(project)
    session.commit()
    return project.id


def fetch(session: Session, project: str, settings: Settings) -> Dataset:
    """A private dataset of the hub, taken in for a project."""
    asked = {"id": "team/private", "config": None, "split": "train", "revision": "main", "text_field": "text"}
    row = Dataset(id=new_id(Prefix.dataset), project_id=project, name="d", state="pending", source="hub")
    row.format, row.hub = "jsonl", asked
    session.add(row)
    session.commit()
    run(TaskKind.dataset_fetch, row.id, lambda _: None, lambda: None, settings)
    session.refresh(row)
    return row


def test_a_projects_token_fetches_for_that_project_alone(
    session: Session, settings: Settings, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.add("dataset", "team/private", {"train.jsonl": b'{"text": "ours"}\n'}, token=TOKEN)
    mine = settings.model_copy(update={"hf_endpoint": hub.url, "hf_hosts": ("localhost",)})
    ours, theirs = make_project(session), make_project(session)
    hub_tokens.put(session, ours, TOKEN, "key_1", mine.secret.get_secret_value())
    session.commit()
    refused = fetch(session, theirs, mine)
    assert (refused.state, (refused.error or {})["code"]) == ("failed", "hub_not_found")
    assert hub.tokens == {None}
    taken = fetch(session, ours, mine)
    assert (taken.state, taken.documents) == ("ready", 1)
    assert hub.tokens == {None, f"Bearer {TOKEN}"}
    # The contents lie at another address, to which the hub sends; the token stays behind.
    assert hub.content_tokens == {None}
    assert TOKEN not in caplog.text
    # Under another secret of the service, the token is none.
    other = mine.model_copy(update={"secret": type(mine.secret)("another secret, long enough as it is")})
    assert hub_tokens.open_token(session, ours, other.secret.get_secret_value()) is None
    assert fetch(session, ours, other).state == "failed"


def test_a_projects_token_goes_before_the_services(hub: Hub, context: Context) -> None:
    hub.add("model", "team/model", {"a.txt": b"a" * 50})
    own = replace(context, hub_token=TOKEN)
    repo = open_repo("model", "team/model", "/source", own)
    repo.download(repo.resolve(None), "a.txt", HubFile(50), context.scratch / "files")
    assert (hub.tokens, hub.content_tokens) == ({f"Bearer {TOKEN}"}, {None})
    assert TOKEN not in repr(own)
    assert TOKEN not in repr(repo)


def test_a_token_is_sealed_for_its_project(session: Session, settings: Settings) -> None:
    ours, theirs = make_project(session), make_project(session)
    secret = settings.secret.get_secret_value()
    row = hub_tokens.put(session, ours, TOKEN, "key_1", secret)
    assert TOKEN.encode() not in row.sealed
    assert row.hint == "…lone"
    assert hub_tokens.open_token(session, ours, secret) == TOKEN
    moved = hub_tokens.put(session, theirs, "hf_something_else", "key_1", secret)
    moved.sealed = row.sealed
    session.flush()
    assert hub_tokens.open_token(session, theirs, secret) is None


def test_a_projects_roots_are_its_own(context: Context, tmp_path: Path) -> None:
    for name in ("shared", "own/a/m", "own/b", "elsewhere/m"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own" / "a" / "out").symlink_to(tmp_path / "elsewhere" / "m")
    update = {"model_roots": (tmp_path / "shared",), "project_roots": tmp_path / "own"}
    here = replace(context, settings=context.settings.model_copy(update=update))

    def code(own: tuple[str, ...], path: str) -> str:
        with pytest.raises(IntakeError) as caught:
            take_model({"type": "folder", "path": path}, replace(here, own_roots=own))
        return caught.value.code

    assert code(("a",), "m") not in ("path_not_found", "path_invalid")  # there, and no model
    for own, path in (
        ((), "m"),
        (("b",), "m"),
        (("link",), "m"),
        (("a",), "out"),
        (("a",), "../b"),
        (("../elsewhere",), "m"),
    ):
        assert code(own, path) in ("path_not_found", "path_invalid"), (own, path)
