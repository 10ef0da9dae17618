"""Sending a model folder, against a server that breaks off, forgets and refuses."""

import json
from pathlib import Path

import pytest

from secateur.digests import file_sha256
from secateur.errors import ProblemError, SecateurError
from secateur.upload_model import NAMES
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer

DATA = bytes(range(256)) * 40


class Store:
    """A server that keeps what it is sent; `lose`: how much it keeps of parts that break off."""

    def __init__(self, *lose: int) -> None:
        self.files: dict[str, bytearray] = {}
        self.sizes: dict[str, int] = {}
        self.lose = list(lose)
        self.completed = 0

    def answer(self, request: Request) -> Reply:
        name = request.path.rpartition("/")[2]
        if request.path.endswith("/complete"):
            self.completed += 1
            return Reply.json({"id": "mdl_1", "state": "pending"}, 202)
        if request.path == "/v1/models":
            source = json.loads(request.body)["source"]
            self.sizes = {each["path"]: each["bytes"] for each in source["files"]}
            self.files = {path: bytearray() for path in self.sizes}
            return Reply.json({"id": "mdl_1", "state": "uploading"}, 202)
        if request.method == "GET":
            listed = [
                {"path": path, "bytes": size, "received": len(self.files[path])}
                for path, size in self.sizes.items()
            ]
            return Reply.json({"data": listed} if name == "files" else listed[list(self.sizes).index(name)])
        return self._put(name, int(request.headers["upload-offset"]), request.body)

    def _put(self, name: str, offset: int, body: bytes) -> Reply:
        if offset != len(self.files[name]):
            return Reply.json({"code": "offset_mismatch", "detail": "x", "status": 409}, 409)
        if self.lose and name == "model.safetensors":
            self.files[name] += body[: self.lose.pop(0)]
            return Reply(200, b"x" * 100, {"Content-Length": "100"}, cut=1)
        self.files[name] += body
        return Reply(204, b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(DATA)
    (model / "README.md").write_text("card")
    for name in ("modeling.py", "pytorch_model.bin", ".hidden.json", "NOTES.md"):
        (model / name).write_text("stays")
    return model


def test_a_folder_is_sent_whole_without_what_is_no_model(
    connect: Connect, folder: Path, scripted: ScriptedServer
) -> None:
    store, told = Store(), list[tuple[int, int]]()
    scripted.answer = store.answer
    with connect(scripted.url, "sctr_key") as client:
        model = client.upload_model(folder, on_bytes=lambda done, total: told.append((done, total)))
    assert (model["state"], store.completed) == ("pending", 1)
    assert {name: bytes(data) for name, data in store.files.items()} == {
        "README.md": b"card",
        "config.json": b"{}",
        "model.safetensors": DATA,
    }
    assert told[-1] == (len(DATA) + 6, len(DATA) + 6)
    created = json.loads(scripted.requests[0].body)
    assert created["name"] == "mine"
    digests = [file_sha256(folder / name) for name in ("README.md", "config.json", "model.safetensors")]
    assert [file["sha256"] for file in created["source"]["files"]] == digests


def test_a_part_that_broke_off_goes_on_where_it_ended(
    connect: Connect, folder: Path, scripted: ScriptedServer
) -> None:
    store = Store(3000, 0, 1000)
    scripted.answer = store.answer
    with connect(scripted.url, "sctr_key", retry_seconds=0) as client:
        client.upload_model(folder)
    assert bytes(store.files["model.safetensors"]) == DATA


@pytest.mark.parametrize("status", [502, 504])
def test_a_part_that_a_proxy_gave_up_goes_on_where_it_ended(
    connect: Connect, folder: Path, scripted: ScriptedServer, status: int
) -> None:
    store, parts = Store(), list[str]()

    def answer(request: Request) -> Reply:
        if request.method == "PUT":
            parts.append(request.headers["upload-offset"])
            if len(parts) == 3:  # of the third file, a piece has come
                store.files["model.safetensors"] += request.body[:1000]
                return Reply(status, b"<html>", {"Content-Type": "text/html"})
        return store.answer(request)

    scripted.answer = answer
    with connect(scripted.url, "sctr_key", retry_seconds=0) as client:
        client.upload_model(folder)
    assert bytes(store.files["model.safetensors"]) == DATA
    assert parts == ["0", "0", "0", "1000"]


def test_an_upload_goes_on_in_a_later_call(connect: Connect, folder: Path, scripted: ScriptedServer) -> None:
    store = Store(*[0] * 5)
    scripted.answer = store.answer
    with connect(scripted.url, "sctr_key", retry_seconds=0) as client:
        with pytest.raises(SecateurError) as caught:
            client.upload_model(folder)
        assert "model='mdl_1'" in caught.value.__notes__[0]
        assert client.upload_model(folder, model="mdl_1")["state"] == "pending"
    assert bytes(store.files["model.safetensors"]) == DATA
    assert len([each for each in scripted.requests if each.path == "/v1/models"]) == 1


def test_a_file_that_changed_meanwhile_is_not_sent(
    connect: Connect, folder: Path, scripted: ScriptedServer
) -> None:
    store = Store(*[0] * 5)
    scripted.answer = store.answer
    with connect(scripted.url, "sctr_key", retry_seconds=0) as client:
        with pytest.raises(SecateurError):
            client.upload_model(folder)
        (folder / "model.safetensors").write_bytes(DATA + b"more")
        with pytest.raises(SecateurError, match="is not the file that the upload began with"):
            client.upload_model(folder, model="mdl_1")


def test_a_folder_that_is_no_model_is_refused_before_anything_is_sent(
    connect: Connect, tmp_path: Path, scripted: ScriptedServer
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with connect(scripted.url, "sctr_key") as client, pytest.raises(SecateurError, match="save_pretrained"):
        client.upload_model(tmp_path)
    assert scripted.requests == []


def test_a_refusal_is_not_tried_again(connect: Connect, folder: Path, scripted: ScriptedServer) -> None:
    store = Store()

    def answer(request: Request) -> Reply:
        if request.method == "PUT":
            return Reply.json({"code": "storage_quota_exceeded", "detail": "full", "status": 507}, 507)
        return store.answer(request)

    scripted.answer = answer
    with connect(scripted.url, "sctr_key") as client, pytest.raises(ProblemError, match="full"):
        client.upload_model(folder)
    assert len([each for each in scripted.requests if each.method == "PUT"]) == 1


def test_whatever_is_sent_is_taken() -> None:
    """Of the names that a model's folder may have, those that the client sends are the server's, too."""
    from app.models.upload_files import _allowed

    stems = (
        "LICENSE",
        "NOTICE",
        "USE_POLICY",
        "COPYING",
        "LICENSE-MIT",
        "LICENSEold",
        "COPYING.LESSER",
        "README",
        "model",
        "a",
    )
    ends = ("", ".txt", ".md", ".rst", ".pdf", ".html", ".py", ".json", ".model", ".jinja", ".safetensors", ".bin")
    sent = [name for name in (stem + end for stem in stems for end in ends) if NAMES.fullmatch(name)]
    assert {"LICENSE", "LICENSE.txt", "LICENSE-MIT", "COPYING.md", "README.md", "model.safetensors"} <= set(sent)
    assert [_allowed(name) for name in sent] == sent
