"""A small stand-in for a Hugging Face hub: the parts of its HTTP API that huggingface_hub uses to read."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 3
"""Entries of a page of a tree: few, so that every listing is paged."""
LARGE = 40

_API = re.compile(r"/api/(model|dataset)s/(.+?)(?:/(revision|tree)/([^/]+))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """A repository: its branches, each one commit of files, and how it behaves."""

    branches: dict[str, Mapping[str, bytes]]
    gated: bool = False
    token: str | None = None
    """Without this token the repository is not to be seen."""
    other: bool = False
    """Contents are replaced by as many other bytes."""
    private: bool = False
    extra: bytes = b""
    """Sent behind the announced contents of every file."""

    def commit(self, revision: str) -> str | None:
        for name, files in self.branches.items():
            commit = hashlib.sha256(repr((name, sorted(files.items()))).encode()).hexdigest()[:40]
            if revision in (name, commit):
                return commit
        return None

    def files(self, revision: str) -> Mapping[str, bytes]:
        commit = self.commit(revision)
        return next(files for name, files in self.branches.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What the server serves and what it was asked."""

    url: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that were sent, by their sha256."""
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    content_tokens: set[str | None] = field(default_factory=set)
    """Credentials that came to the address of the contents, where they have no business."""
    status: int | None = None
    """Answer everything with this status."""

    def add(self, kind: str, id: str, files: Mapping[str, bytes], **options: object) -> Repo:
        repo = Repo({"main": files}, **options)  # type: ignore[arg-type]
        self.repos[kind, id] = repo
        return repo

    def downloads(self) -> list[str]:
        """Paths of the files that were sent."""
        return [unquote(path.split("/cdn/")[1].split("/", 2)[2]) for path in self.requests if "/cdn/" in path]


@contextmanager
def run_hub(handler: type[BaseHTTPRequestHandler] | None = None) -> Iterator[Hub]:
    """A hub on a free port of this machine. handler: of one that can do more than be read."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler or _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        token = self.headers.get("Authorization")
        (self.hub.content_tokens if path.startswith("/cdn/") else self.hub.tokens).add(token)
        if self.command == "GET":
            self.hub.requests.append(self.path)
        if self.hub.status is not None:
            self._send(self.hub.status, b"{}")
        elif match := _API.fullmatch(path):
            self._api(*match.groups())
        elif match := _FILE.fullmatch(path):
            kind = "dataset" if match[1] else "model"
            self._file(kind, unquote(match[2]), unquote(match[3]), unquote(match[4]))
        elif path.startswith("/cdn/"):
            self._cdn(*path.removeprefix("/cdn/").split("/", 2))
        else:
            self._send(404, b"{}")

    def _find(self, kind: str, id: str, revision: str) -> tuple[Repo, str] | None:
        """The repository and commit, or None after an error was sent."""
        repo = self.hub.repos.get((kind, id))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is None or (repo.token is not None and repo.token != token):
            self._send(
                401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": f"secret of {self.hub.url}"}
            )
        elif repo.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif (commit := repo.commit(revision)) is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo, commit
        return None

    def _api(self, kind: str, id: str, action: str | None, revision: str | None) -> None:
        found = self._find(kind, id, unquote(revision or "main"))
        if found is None:
            return
        repo, commit = found
        if action == "tree":
            self._tree(repo.files(commit))
        else:
            info = {
                "id": id,
                "sha": commit,
                "private": False,
                "tags": [],
                "siblings": [],
                "downloads": 0,
                "likes": 0,
            }
            self._send(200, json.dumps(info).encode())

    def _tree(self, files: Mapping[str, bytes]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        recursive = query["recursive"][0].lower() == "true"
        top = {path for path in files if "/" not in path or recursive}
        folders = {path.split("/")[0] for path in files if "/" in path}
        entries: list[dict[str, object]] = [_entry(path, files[path]) for path in sorted(top)]
        entries += [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            address = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={start + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._send(200, json.dumps(entries[start : start + PAGE]).encode(), headers)

    def _file(self, kind: str, id: str, revision: str, path: str) -> None:
        found = self._find(kind, id, revision)
        if found is None:
            return
        repo, commit = found
        data = repo.files(commit).get(path)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        # By another name of this machine: like the hub's, these contents come from elsewhere.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Location": f"{elsewhere}/cdn/{kind}/{quote(id, safe='')}/{quote(path)}?commit={commit}",
        }
        self._send(302, b"", headers)

    def _cdn(self, kind: str, id: str, path: str) -> None:
        repo = self.hub.repos[kind, unquote(id)]
        commit = parse_qs(urlsplit(self.path).query)["commit"][0]
        data = repo.files(commit)[unquote(path)]
        self._send(200, (bytes(len(data)) if repo.other else data) + repo.extra)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: str, data: bytes) -> dict[str, object]:
    """One file of a tree; large ones are kept outside of git, under their sha256."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
