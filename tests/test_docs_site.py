"""The documentation as a site: complete, whole, and without anything of another host.

Slow: only a build finds broken links.
"""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


# Not quiet: what mkdocs does not print, it does not count either.
def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Fetched(HTMLParser):
    """What a browser loads by itself for a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        loads = tag in ("script", "img", "source", "iframe") or (tag == "link" and of.get("rel") != "canonical")
        self.addresses += [address for name in ("src", "href", "srcset") if loads and (address := of.get(name))]


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        addresses = Fetched(page).addresses
        assert addresses
        for address in addresses:
            assert not re.match(r"(?:[a-z]+:)?//", address), (page, address)
            assert (
                page.parent / address.partition("?")[0].partition("#")[0]
            ).exists() or page.name == "404.html", (page, address)


def test_it_begins_with_the_readme(site: Path) -> None:
    start = (site / "index.html").read_text()
    for title in re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"<h2[^>]*>{title}", start), title


def test_every_call_and_every_schema_has_its_place(site: Path) -> None:
    page = (site / "reference.html").read_text()
    document = json.loads((site / "openapi.json").read_text())
    operations = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    names = [*operations, *(f"schema-{name.lower()}" for name in document["components"]["schemas"])]
    assert len(names) > 100
    assert [name for name in names if f'id="{name}"' not in page] == []
    assert "≥ 256, ≤ 1048576" in page, "bounds are whole"


def test_the_client_has_its_methods(site: Path) -> None:
    page = (site / "python.html").read_text()
    for client in ("Client", "AsyncClient"):
        for name in ("submit", "wait", "download"):
            assert f'id="secateur.client.{client}.{name}"' in page


def test_a_broken_link_is_a_failure(tmp_path: Path) -> None:
    """In a site of one page by the same rules."""
    shutil.copytree(ROOT / "docs" / "building", tmp_path / "docs" / "building")
    rules = (ROOT / "mkdocs.yml").read_text().split("hooks:")[0] + "plugins: []\n"
    rules += re.search(r"^validation:\n(?:  .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.M)[0]  # type: ignore[index]
    (tmp_path / "mkdocs.yml").write_text(rules)
    page = tmp_path / "docs" / "index.md"
    page.write_text("# One\n\n[here](#one)\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    for link in ("none.md", "#two"):
        page.write_text(f"# One\n\n[there]({link})\n")
        done = build(tmp_path, tmp_path / "site")
        assert done.returncode != 0
        assert link.lstrip("#") in done.stderr
