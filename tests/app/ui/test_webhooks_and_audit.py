"""The pages of webhooks and of the audit log in a real Chromium, with a receiver on this machine.

Slow: only a browser shows a secret once, and asks before it deletes.
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from app.db.engine import get_session_factory
from app.settings import Settings
from app.webhooks.posting import Poster
from app.webhooks.sender import Sender
from tests.app.conftest import MakeKey
from tests.app.ui.conftest import Dashboard, History, looks_right, sign_in
from tests.app.webhooks.conftest import LOOPBACK, Receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With receivers on this machine allowed."""
    return environment | {"SECATEUR_WEBHOOK_HTTP": "1", "SECATEUR_WEBHOOK_NETWORKS": LOOPBACK}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def send(settings: Settings) -> None:
    """Post what is due, in a thread of its own: the browser's event loop runs in this one."""

    async def run() -> None:
        sender = Sender(settings, get_session_factory(), Poster(settings.webhook_networks))
        while await sender.turn():
            await sender.drain()
        await sender.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()


def test_a_webhook_lives_and_ends_in_the_browser(
    signed_in: Dashboard, receiver: Receiver, settings: Settings, api: Any
) -> None:
    page = signed_in.page
    signed_in.open("/webhooks")
    page.get_by_role("button", name="Make webhook").click()
    page.locator(".field", has_text="Address").locator(".fault").wait_for()
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_label("Description").fill("our CI")
    page.get_by_label("transition", exact=True).check()
    page.get_by_label("failed", exact=True).check()
    page.get_by_role("button", name="Make webhook").click()
    secret = page.locator("code.secret")
    assert secret.text_content().startswith("whsec_")  # type: ignore[union-attr]
    page.get_by_role("button", name="I have it").click()
    page.get_by_text("transition · then failed").wait_for()
    assert secret.count() == 0, "it is shown once"

    page.get_by_role("button", name="Send a test").click()
    row = page.get_by_role("row").filter(has_text="webhook.ping")
    row.get_by_text("pending").wait_for()
    receiver.status = 500
    send(settings)
    row.get_by_text("failed").wait_for()
    row.get_by_text("500").wait_for()
    receiver.status = 204
    row.get_by_role("button", name="again").click()
    row.get_by_text("pending").wait_for()
    send(settings)
    row.get_by_text("succeeded").wait_for()
    assert [message["type"] for message in receiver.messages] == ["webhook.ping"] * 2
    row.get_by_role("button", name="Show").click()
    page.get_by_role("dialog").get_by_text('"type":"webhook.ping"').wait_for()
    page.keyboard.press("Escape")
    page.get_by_label("State of the delivery").select_option("failed")
    page.get_by_text("No delivery is like that").wait_for()
    page.get_by_label("State of the delivery").select_option("succeeded")
    row.get_by_text("succeeded").wait_for()
    looks_right(page, "webhook")

    page.get_by_role("button", name="New secret").click()
    assert secret.text_content().startswith("whsec_")  # type: ignore[union-attr]
    page.get_by_role("button", name="I have it").click()
    page.get_by_text("Secret before signs until").wait_for()
    page.get_by_role("button", name="Disable").click()
    page.locator("h1 .badge", has_text="disabled").wait_for()
    assert page.get_by_role("button", name="Send a test").is_disabled()
    page.get_by_role("button", name="Delete our CI").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No webhooks yet").wait_for()
    assert api.get("/v1/webhooks").json()["data"] == []


def test_the_audit_log_is_filtered_and_paged(signed_in: Dashboard, api: Any, history: History) -> None:
    for _ in range(51):
        api.patch(f"/v1/jobs/{history.queued}", json={"labels": {"team": "search"}})
    page = signed_in.page
    page.get_by_role("link", name="Audit log").click()
    rows = page.locator("tbody tr")
    page.get_by_label("Action").fill("change_job")
    page.keyboard.press("Enter")
    page.wait_for_url("**/audit?action=change_job")
    page.get_by_role("rowheader", name="change job").nth(49).wait_for()
    page.get_by_role("button", name="Older").click()
    page.get_by_role("button", name="Newer").and_(page.locator(":enabled")).wait_for()
    expect(rows).to_have_count(1, timeout=30_000)
    page.get_by_role("button", name="Newer").click()
    expect(rows).to_have_count(50, timeout=30_000)
    page.get_by_label("Object").fill("job_none")
    page.get_by_role("button", name="Filter").click()
    page.get_by_text("Nothing is like that").wait_for()
    assert rows.count() == 0
    page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(50, timeout=30_000)
    assert "?" not in page.url
    page.get_by_label("Action").fill("create_webhook")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1, timeout=30_000)
    signed_in.open("/audit?created_after=someday")
    page.get_by_role("alert").get_by_text("created_after", exact=True).wait_for()


def test_pages_are_offered_to_keys_that_may_see_them(
    dashboard: Dashboard, make_key: MakeKey, history: History
) -> None:
    sign_in(dashboard, make_key(scopes=["jobs:read"]))
    page = dashboard.page
    assert page.get_by_role("link", name="Audit log").count() == 0
    known = page.locator(".project[title]")
    dashboard.open(f"/webhooks/{history.webhook}")
    known.wait_for()
    page.get_by_role("heading", name="Deliveries").wait_for()
    assert page.get_by_role("button", name="Send a test").count() == 0
    assert page.get_by_role("button", name="again").count() == 0
    dashboard.open("/webhooks")
    known.wait_for()
    assert page.get_by_role("button", name="Make webhook").count() == 0
