"""What is served below /ui, and by what headers."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app import main
from app.settings import Settings
from app.ui import files
from secateur.upload_model import NAMES
from tests.app.conftest import client_of, running

PAGE = b'<!doctype html><script type="module" src="/ui/assets/a-1.js"></script>'
CODE = b"export const one = 1;\n" * 100


@pytest.fixture
def anybody(application: tuple[object, str]) -> httpx.Client:
    return client_of(application[1], None)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of two files."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_bytes(PAGE)
    (tmp_path / "assets" / "a-1.js").write_bytes(CODE)
    put(tmp_path, monkeypatch)


def put(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", folder)
    files._read.cache_clear()
    monkeypatch.setattr(files, "_read", files._read.__wrapped__)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("path", ["/ui/", "/ui/jobs", "/ui/jobs/job_1/history?stage=0", "/ui/index.html"])
def test_every_address_of_a_page_has_the_page(path: str, anybody: httpx.Client) -> None:
    answer = anybody.get(path)
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(re.split(r"[ ;']+", policy))


@pytest.mark.usefixtures("built")
def test_files_of_one_content_are_kept_for_ever_and_sent_packed(anybody: httpx.Client) -> None:
    packed = anybody.get("/ui/assets/a-1.js")
    assert (packed.content, packed.headers["content-encoding"]) == (CODE, "gzip")
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["content-type"].startswith("text/javascript")
    plain = anybody.get("/ui/assets/a-1.js", headers={"Accept-Encoding": "identity"})
    assert (plain.content, "content-encoding" in plain.headers) == (CODE, False)
    assert plain.headers["etag"] != packed.headers["etag"]
    for answer in (packed, plain):
        headers = {
            "If-None-Match": answer.headers["etag"],
            "Accept-Encoding": answer.headers.get("content-encoding", "identity"),
        }
        assert anybody.get("/ui/assets/a-1.js", headers=headers).status_code == 304


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("path", ["assets/none.js", "none.js", "..%2ffiles.py", "assets/..%2f..%2ffiles.py"])
def test_no_other_file_is_served(path: str, anybody: httpx.Client) -> None:
    assert anybody.get(f"/ui/{path}").status_code == 404


def test_the_service_alone_leads_to_it(anybody: httpx.Client) -> None:
    for path in ("/", "/ui"):
        answer = anybody.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, "/ui/")


def test_without_a_build_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anybody: httpx.Client
) -> None:
    put(tmp_path, monkeypatch)
    answer = anybody.get("/ui/jobs")
    assert answer.status_code == 404
    assert "make ui" in answer.text


def test_it_sends_the_files_that_the_command_line_sends() -> None:
    source = Path(main.__file__).parents[1] / "ui" / "src" / "api" / "model_upload.ts"
    assert f"/^(?:{NAMES.pattern})$/" in source.read_text()


def test_it_can_be_switched_off(settings: Settings) -> None:
    with running(settings.model_copy(update={"dashboard": False})) as url:
        for path in ("/", "/ui", "/ui/jobs"):
            assert httpx.get(f"{url}{path}", trust_env=False).status_code == 404


def test_the_document_is_written_without_a_service(tmp_path: Path, anybody: httpx.Client) -> None:
    target = tmp_path / "openapi.json"
    subprocess.run(
        [sys.executable, "-m", "app.export_openapi", target], check=True, cwd=Path(main.__file__).parents[1]
    )
    assert httpx.Response(200, content=target.read_bytes()).json() == anybody.get("/openapi.json").json()
