"""/docs runs nothing but files of our own."""

import re
import subprocess
import sys

import httpx
import pytest

from app.docs import files
from tests.app.conftest import client_of


@pytest.fixture
def anybody(application: tuple[object, str]) -> httpx.Client:
    return client_of(application[1], None)


def test_the_page_has_nothing_inline_and_nothing_of_others(anybody: httpx.Client) -> None:
    page = anybody.get("/docs")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(re.split(r"[ ;']+", policy))
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|style=|//", page.text.replace("<!doctype", ""))
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        file = anybody.get(f"/{name}")
        assert file.status_code == 200, name
        assert file.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
        assert file.headers["x-content-type-options"] == "nosniff"


def test_what_has_not_changed_is_not_sent_again(anybody: httpx.Client) -> None:
    for name in files():
        first = anybody.get(f"/docs/{name}")
        assert "max-age" in first.headers["cache-control"]
        again = anybody.get(f"/docs/{name}", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert anybody.head("/docs").status_code == 200


@pytest.mark.parametrize(
    "name", ["core.py", "..%2fcore.py", "redoc.standalone.js", "start.js/", "%00", "a" * 3000]
)
def test_no_other_file_is_served(name: str, anybody: httpx.Client) -> None:
    assert anybody.get(f"/docs/{name}").status_code in (400, 404)


def test_the_package_that_has_the_files_is_not_imported() -> None:
    code = "import sys; from app.docs import files; files(); print('fastapi_offline' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_viewer_knows_the_documents_version(anybody: httpx.Client) -> None:
    version = anybody.get("/openapi.json").json()["openapi"]
    assert version.startswith("3.1")
    viewer = files()["swagger-ui-bundle.js"].content.decode()
    assert int(re.search(r'PACKAGE_VERSION:"(\d+)', viewer)[1]) >= 5  # type: ignore[index]
