"""The dashboard in a real Chromium: it shows what the API says, by keyboard, on small screens, in both themes.

Slow: only a browser says what it draws, refuses by the page's policy, and lets be reached by keys.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.storage import ObjectStore
from app.tables.jobs import Job
from tests.app.conftest import MakeKey
from tests.app.ui.conftest import Dashboard, History, accessibility, draw, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGES = (
    "/jobs",
    "/jobs?state=paused",
    "/jobs/{done}",
    "/jobs/{running}",
    "/jobs/{queued}",
    "/jobs/{failed}",
    "/jobs/{done}/results",
    "/jobs/{done}/blocks",
    "/jobs/{continued}/lineage",
    "/jobs/{done}/events",
    "/jobs/{done}/log",
    "/jobs/{done}/files",
    "/new",
    "/new?continues={done}",
    "/models",
    "/datasets",
    "/compare?job={done}&other={other}",
    "/projects",
    "/webhooks",
    "/webhooks/{webhook}",
    "/audit?action=create_job",
    "/nothing/here",
)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_every_page_is_accessible(theme: Any, width: int, signed_in: Dashboard, history: History) -> None:
    page = signed_in.page
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    for path in PAGES:
        signed_in.open(path.format(**vars(history)))
        found = accessibility(page)
        draw(page, f"{theme}-{width}-{path}")
        assert found == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path} is wider than the screen"


def test_by_keyboard_alone_a_job_is_cancelled(dashboard: Dashboard, make_key: MakeKey, history: History) -> None:
    page = dashboard.page
    dashboard.open("/jobs")
    page.keyboard.type(make_key())
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()
    page.get_by_role("link", name=history.queued[-6:]).wait_for()
    reach(page, f"/ui/jobs/{history.queued}")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Cancel", exact=True).wait_for()
    reach(page, "Cancel")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    reach(page, "Cancel the job")
    page.keyboard.press("Enter")
    page.locator("h1 .badge", has_text="cancelled").wait_for()
    page.get_by_role("button", name="Retry").wait_for()


def reach(page: Any, what: str) -> None:
    """Press Tab until the focus is on a link to an address, or on a button with a name."""
    here = "document.activeElement.getAttribute('href') ?? document.activeElement.textContent.trim()"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(here) == what:
            return
    raise AssertionError(f"Tab does not lead to {what}")


def test_a_change_elsewhere_is_seen_without_a_reload(signed_in: Dashboard, history: History, api: Any) -> None:
    page = signed_in.page
    signed_in.open(f"/jobs/{history.queued}")
    page.get_by_text("Number", exact=False).first.wait_for()
    api.post(f"/v1/jobs/{history.queued}/pause")
    page.get_by_role("button", name="Resume").wait_for()
    page.get_by_text("queued → paused").wait_for()


def test_the_key_is_in_this_tab_alone(signed_in: Dashboard) -> None:
    page = signed_in.page
    assert page.evaluate("sessionStorage.length") == 1
    assert page.evaluate("localStorage.length") == 0
    assert page.context.cookies() == []
    other = page.context.new_page()
    other.goto(f"{signed_in.url}/ui/jobs")
    other.get_by_label("API key").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_wrong_key_is_said_at_its_field(dashboard: Dashboard) -> None:
    dashboard.open("/")
    dashboard.page.get_by_label("API key").fill("sctr_nonsense")
    dashboard.page.get_by_role("button", name="Sign in").click()
    dashboard.page.get_by_text("No such key").wait_for()
    assert dashboard.page.get_by_label("API key").get_attribute("aria-invalid") == "true"


def test_a_key_without_scopes_sees_no_actions(dashboard: Dashboard, make_key: MakeKey, history: History) -> None:
    sign_in(dashboard, make_key(scopes=["jobs:read"]))
    dashboard.open(f"/jobs/{history.queued}")
    assert dashboard.page.get_by_role("button", name="Cancel").count() == 0


def test_a_model_is_uploaded_over_a_broken_line(signed_in: Dashboard, tmp_path: Path, api: Any) -> None:
    folder = tmp_path / "tiny"
    (folder / "below").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "NOTES.md", "below/tokenizer.json"):
        (folder / name).write_text("{}" * 100)
    page = signed_in.page
    page.route("**/files/model.safetensors", lambda route: route.abort(), times=1)
    page.route(
        "**/files/config.json", lambda route: route.fulfill(status=502, body="<html>Bad gateway</html>"), times=1
    )
    signed_in.open("/models")
    page.get_by_label("Source").select_option("upload")
    page.get_by_label("Name").fill("mine")
    page.get_by_label("Folder").set_input_files(folder)
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("rowheader", name="mine").wait_for()
    [model] = [each for each in api.get("/v1/models").json()["data"] if each["name"] == "mine"]
    assert model["state"] == "pending", "it is complete"
    assert {each["path"] for each in model["source"]["files"]} == {"config.json", "model.safetensors"}


def test_a_file_is_saved(signed_in: Dashboard, history: History, session: Session, store: ObjectStore) -> None:
    row = session.get_one(Job, history.done, populate_existing=True)
    digest, key = hashlib.sha256(b"{}").hexdigest(), f"jobs/{row.root}/{row.id}-1/output/saved"
    store.put_bytes(key, b"{}")
    file = {"path": "report.json", "sha256": digest, "bytes": 2, "key": key, "media_type": "application/json"}
    row.manifest = {**(row.manifest or {}), "files": [file]}
    session.commit()
    signed_in.open(f"/jobs/{history.done}/files")
    asked: list[str] = []
    signed_in.page.on("request", lambda request: asked.append(request.url))
    with signed_in.page.expect_download() as saving:
        signed_in.page.get_by_role("button", name="Save report.json").click()
    assert Path(saving.value.path()).read_bytes() == b"{}"
    assert any(url.endswith("?redirect=false") for url in asked), "a store of its own address is out of reach"


def test_a_dataset_is_uploaded(signed_in: Dashboard, tmp_path: Path, api: Any) -> None:
    (tmp_path / "letters.txt").write_text("One two three. " * 200)
    signed_in.open("/datasets")
    signed_in.page.get_by_label("File").set_input_files(tmp_path / "letters.txt")
    signed_in.page.get_by_role("button", name="Upload").click()
    signed_in.page.get_by_role("rowheader", name="letters").wait_for()
    assert [each["name"] for each in api.get("/v1/datasets").json()["data"]] == ["letters"]
