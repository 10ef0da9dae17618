"""A stand-in for a hub that takes commits: what huggingface_hub uses of its HTTP API to write, without Xet."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from tests.worker.intake.hub_server import Hub, Repo, _Handler, run_hub

TOKEN: Final = "hf_may_write"
ALLOWED: Final = {"base_model": str, "license": str, "license_link": str, "library_name": str, "datasets": list}
"""Of a card's metadata what the hub is strict about, and what it must be."""


@contextmanager
def run_writable_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine; only TOKEN may write."""
    with run_hub(_WritingHandler) as hub:
        yield hub


class _WritingHandler(_Handler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or self._chunks()
        path = urlsplit(self.path).path
        self.hub.requests.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b'{"error": "Invalid token"}')
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            self._preupload(match[1], json.loads(body))
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines() if line.strip()])
        else:
            self._send(404, b"{}")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == f"/upload/{hashlib.sha256(data).hexdigest()}"
        self.hub.objects[self.path.rsplit("/", 1)[1]] = data
        self._send(200, b"")

    def _chunks(self) -> bytes:
        """A body of no announced length."""
        whole = b""
        while "chunked" in self.headers.get("Transfer-Encoding", "") and (
            size := int(self.rfile.readline().strip() or b"0", 16)
        ):
            whole += self.rfile.read(size)
            self.rfile.readline()
        return whole

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _validate(self, content: str) -> None:
        metadata = yaml.safe_load(content.split("---\n")[1])
        wrong = [
            name for name, kind in ALLOWED.items() if name in metadata and not isinstance(metadata[name], kind)
        ]
        self._json({"errors": [{"message": name} for name in wrong], "warnings": []}, 400 if wrong else 200)

    def _create(self, asked: dict[str, Any]) -> None:
        id = f"{asked['organization']}/{asked['name']}"
        there = ("model", id) in self.hub.repos
        if not there:
            self.hub.add("model", id, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self._json(
            {"url": f"{self.hub.url}/{id}", "error": "You already created this model repo"}, 409 if there else 200
        )

    def _repo(self, id: str) -> Repo:
        return self.hub.repos["model", id]

    def _preupload(self, id: str, asked: dict[str, Any]) -> None:
        there = self._repo(id).branches["main"]
        files = []
        for file in asked["files"]:
            path, large = file["path"], file["path"].endswith(".safetensors")
            data = there.get(path)
            known = None if data is None else hashlib.sha256(data).hexdigest() if large else _blob(data)
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append({"path": path, **mode, "oid": known})
        self._json({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}
            objects.append(each if each["oid"] in self.hub.objects else each | {"actions": upload})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, id: str, lines: list[dict[str, Any]]) -> None:
        repo = self._repo(id)
        files = dict(repo.branches["main"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        repo.branches["main"] = files
        commit = repo.commit("main")
        self._json({"commitUrl": f"{self.hub.url}/{id}/commit/{commit}", "commitOid": commit, "success": True})


def _blob(data: bytes) -> str:
    """What git calls these contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
