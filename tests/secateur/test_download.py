"""Downloads: resumed, checked, never outside the folder."""

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from secateur import Client, DownloadError, UnsafePath
from tests.secateur.conftest import Connect, Reply, Request, Run, ScriptedServer

CONTENT = bytes(range(256)) * 4096


def _manifest(files: dict[str, bytes]) -> dict[str, Any]:
    entries = [
        {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for path, data in files.items()
    ]
    ordered = sorted(entries, key=lambda each: str(each["path"]))
    lines = "".join(f"{each['sha256']}  {each['path']}\n" for each in ordered)
    digest = hashlib.sha256(lines.encode()).hexdigest()  # also of paths that no honest manifest has
    return {"object": "manifest", "digest": digest, "files": entries}


class Artifacts:
    """Serves files with ranges; the first `breaks` answers of a file end after `break_at` bytes."""

    def __init__(
        self, files: dict[str, bytes], *, ranges: bool = True, breaks: int = 0, break_at: int = 0
    ) -> None:
        self.files = files
        self.manifest = _manifest(files)
        self.ranges = ranges
        self.breaks = breaks
        self.break_at = break_at
        self.downloads: list[Request] = []

    def __call__(self, request: Request) -> Reply:
        prefix = "/v1/jobs/job_1/artifacts"
        if request.path == prefix:
            return Reply.json(self.manifest)
        self.downloads.append(request)
        data = self.files[request.path.removeprefix(prefix + "/")]
        status = 200
        if self.ranges and "range" in request.headers:
            start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            data, status = data[start:], 206
        reply = Reply(status, data)
        if self.breaks > 0:
            self.breaks -= 1
            reply.cut = self.break_at
        return reply


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=5)


def test_every_file_arrives_and_nothing_else(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    files = {"report.json": b"{}", "model/a.safetensors": CONTENT, "model/empty": b""}
    scripted.answer = Artifacts(files)
    seen: list[tuple[int, int]] = []
    client.download("job_1", tmp_path, on_bytes=lambda done, total: seen.append((done, total)))
    found = {
        path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert found == files
    assert seen[-1] == (len(CONTENT) + 2, len(CONTENT) + 2)
    assert client.verify("job_1", tmp_path) == []


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["model/*"], ["model/a.safetensors", "model/sub/b"]),
        (("*.safetensors", "report.json"), ["model/a.safetensors", "report.json", "stage-00/model/a.safetensors"]),
        (["model/*", "*"], ["model/a.safetensors", "model/sub/b", "report.json", "stage-00/model/a.safetensors"]),
        ([], []),
    ],
)
def test_only_what_a_glob_matches_arrives(
    client: Client, scripted: ScriptedServer, tmp_path: Path, only: Collection[str], expected: list[str]
) -> None:
    paths = ("model/a.safetensors", "model/sub/b", "report.json", "stage-00/model/a.safetensors")
    scripted.answer = Artifacts({path: path.encode() for path in paths})
    seen = [(0, 0)]
    arrived = client.download("job_1", tmp_path, only=only, on_bytes=lambda *bytes: seen.append(bytes))
    assert sorted(arrived) == [tmp_path / path for path in expected]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(arrived)
    assert seen[-1] == (sum(map(len, expected)),) * 2


def test_a_glob_that_no_file_matches_is_an_error(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    """Not fewer files than were asked for, without a word; so is a string in place of a list."""
    server = scripted.answer = Artifacts({"model/a": CONTENT})
    for only in (["model/*", "report.json"], "model/*"):
        with pytest.raises(DownloadError, match=r"no file '(report\.json|m)'"):
            client.download("job_1", tmp_path, only=only)
    assert server.downloads == []


def test_the_command_takes_globs(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.answer = Artifacts({"model/a": b"a", "report.json": b"{}", "state/b": b"b"})
    code, _, _ = run("download", "job_1", str(tmp_path), "--only", "model/*", "--only", "report.json")
    assert code == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a", "report.json"}
    assert run("download", "job_1", str(tmp_path))[0] == 0
    assert (tmp_path / "state" / "b").is_file()


def test_broken_connection_goes_on_where_it_broke(
    client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    server = Artifacts({"a": CONTENT}, breaks=2, break_at=300_000)
    scripted.answer = server
    client.download("job_1", tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert "range" not in server.downloads[0].headers
    assert len(server.downloads) == 3
    assert all("if-range" in request.headers for request in server.downloads[1:])


def test_server_without_ranges_sends_all_again(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.answer = Artifacts({"a": CONTENT}, ranges=False, breaks=1, break_at=300_000)
    client.download("job_1", tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_interrupted_download_is_resumed_by_a_later_call(
    connect: Connect, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    server = Artifacts({"a": CONTENT}, breaks=1, break_at=700_000)
    scripted.answer = server
    with pytest.raises(DownloadError, match="connection broke"):
        connect(scripted.url, "sctr_key", retry_seconds=0).download("job_1", tmp_path)
    assert not (tmp_path / "a").exists()
    client.download("job_1", tmp_path)
    assert server.downloads[-1].headers["range"] == "bytes=700000-"
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_bad_piece_of_an_earlier_run_is_thrown_away(
    client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    server = Artifacts({"a": CONTENT})
    scripted.answer = server
    sha256 = server.manifest["files"][0]["sha256"]
    (tmp_path / f".a.{sha256[:16]}.part").write_bytes(b"rubbish")
    client.download("job_1", tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_whole_files_are_not_fetched_again(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    server = Artifacts({"a": CONTENT, "b": b"b"})
    scripted.answer = server
    client.download("job_1", tmp_path)
    (tmp_path / "b").write_bytes(b"c")
    server.downloads.clear()
    client.download("job_1", tmp_path)
    assert [request.path.rpartition("/")[2] for request in server.downloads] == ["b"]


def test_wrong_content_is_refused(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    server = Artifacts({"a": CONTENT})
    server.files = {"a": CONTENT[::-1]}
    scripted.answer = server
    with pytest.raises(DownloadError, match="not what the manifest says"):
        client.download("job_1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_much_content_is_refused(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    server = Artifacts({"a": CONTENT})
    server.files = {"a": CONTENT + b"more"}
    scripted.answer = server
    with pytest.raises(DownloadError, match="more than the manifest"):
        client.download("job_1", tmp_path)


def test_manifest_with_a_wrong_digest_is_refused(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    server = Artifacts({"a": CONTENT})
    server.manifest["digest"] = "0" * 64
    scripted.answer = server
    with pytest.raises(DownloadError, match="digest"):
        client.download("job_1", tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../a",
        "/a",
        "a/../../b",
        "a//b",
        "./a",
        "",
        "..",
        "a\\..\\b",
        "C:/a",
        "a\0b",
        "~root/a",
        "a/",
        ".bashrc",
        ".ssh/authorized_keys",
        "a/.git/config",
    ],
)
def test_path_outside_the_folder_is_refused_before_the_first_byte(
    client: Client, scripted: ScriptedServer, tmp_path: Path, path: str
) -> None:
    server = Artifacts({"good": b"good", path: CONTENT})
    scripted.answer = server
    with pytest.raises(UnsafePath):
        client.download("job_1", tmp_path / "folder")
    assert server.downloads == []


def test_symbolic_link_that_leads_out_is_refused(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "model").symlink_to(outside)
    scripted.answer = Artifacts({"model/a": CONTENT})
    with pytest.raises(UnsafePath):
        client.download("job_1", folder)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["symbolic", "hard", "dangling", "inside", "folder", "pipe"])
@pytest.mark.parametrize("place", ["target", "part"])
def test_nothing_is_written_through_what_somebody_prepared(
    kind: str, place: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    """Whatever has the name of the file or of its piece: what it leads to stays as it is."""
    folder, precious = tmp_path / "folder", tmp_path / "precious"
    folder.mkdir()
    precious.write_bytes(b"precious")
    digest = hashlib.sha256(CONTENT).hexdigest()
    prepared = folder / ("a" if place == "target" else f".a.{digest[:16]}.part")
    if kind == "hard":
        os.link(precious, prepared)
    elif kind == "pipe":
        os.mkfifo(prepared)
    elif kind == "folder":
        prepared.mkdir()
    else:
        inside = folder / "b"
        inside.write_bytes(b"precious")
        prepared.symlink_to({"symbolic": precious, "dangling": tmp_path / "none", "inside": inside}[kind])
    scripted.answer = Artifacts({"a": CONTENT})
    with contextlib.suppress(DownloadError, OSError):
        client.download("job_1", folder)
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "none").exists()
    assert not (folder / "b").exists() or (folder / "b").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_an_export_is_not_written_through_a_prepared_name(
    kind: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    precious, target = tmp_path / "precious", tmp_path / "state.tar"
    precious.write_bytes(b"precious")
    part = tmp_path / ".state.tar.part"
    os.link(precious, part) if kind == "hard" else part.symlink_to(precious)
    scripted.answer = lambda _: Reply(200, CONTENT)
    with pytest.raises(UnsafePath):
        client.export_state("job_1", target)
    assert precious.read_bytes() == b"precious"


def test_verify_names_every_difference(client: Client, scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.answer = Artifacts({"a": b"aa", "b": b"bb", "c": b"cc"})
    (tmp_path / "a").write_bytes(b"aa")
    (tmp_path / "b").write_bytes(b"xx")
    assert client.verify("job_1", tmp_path) == ["b: the contents differ", "c: missing"]
