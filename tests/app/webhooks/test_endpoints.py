"""Webhooks are made, changed, tried and deleted; secrets are shown once; nobody else sees anything."""

from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.auth.scopes import Scope
from app.settings import Settings
from app.tables.webhooks import WebhookDelivery
from app.webhooks.service import MOST
from tests.app.conftest import MakeKey, client_of, running
from tests.app.webhooks.conftest import Receiver, Send, make_webhook

URL = "https://hooks.example.com/secateur"


def test_a_webhook_is_made_read_changed_and_deleted(api: httpx.Client) -> None:
    made = make_webhook(api, URL, events=["transition"], states=["failed"], labels={"team": "search"})
    assert made["secret"].startswith("whsec_")
    url = f"/v1/webhooks/{made['id']}"
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert api.get(url).json() == shown
    assert api.get("/v1/webhooks").json()["data"] == [shown]
    changed = api.patch(url, json={"description": "the board", "events": None, "labels": {}}).json()
    assert changed | {"updated_at": 0} == shown | {
        "description": "the board", "events": None, "labels": {}, "updated_at": 0,
    }  # fmt: skip
    assert changed["updated_at"] > shown["updated_at"]
    assert api.patch(url, json={}).json()["description"] == "the board"
    assert api.delete(url).status_code == 204
    assert (api.get(url).status_code, api.delete(url).status_code) == (404, 404)


def test_a_secret_is_shown_once_and_rotated(api: httpx.Client) -> None:
    first, other = make_webhook(api, URL), make_webhook(api, URL)
    url = f"/v1/webhooks/{first['id']}"
    second = api.post(f"{url}/rotate").json()
    assert len({first["secret"], second["secret"], other["secret"]}) == 3
    assert second["previous_secret_until"] is not None
    assert api.post(f"{url}/rotate", params={"keep_hours": 0}).json()["previous_secret_until"] is None
    assert "secret" not in api.get(url).json()
    for hours in (-1, 169, "nan", "x"):
        assert api.post(f"{url}/rotate", params={"keep_hours": hours}).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "example.com/hook", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/1"),
        *("https://", "https:///path", "https://user:pass@example.com/", "https://example.com/#part"),
        *("https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/", "https://[::1/"),
        *(
            "https://127%2e0%2e0%2e1/",
            "https://exa%00mple.com/",
            "https://a\\@example.com/",
            "https://[::1%25lo]/",
        ),
        *("https://10.0.0.1/", "https://[fe80::1]/", "https://169.254.169.254/latest/meta-data/"),
        *("https://[::ffff:10.0.0.1]/", "https://0x0a.1/", "https://167772161/", "https://012.0.0.1/"),
        *("https://[64:ff9b::a00:1]/", "https://[2002:a00:1::]/", "https://10.0.0.1.:443/", "https://0/"),
        "https://example.com/" + "x" * 2000,
    ],
)
def test_an_address_that_cannot_be_a_receiver_is_refused_with_its_field(api: httpx.Client, url: str) -> None:
    made = make_webhook(api, URL)
    for refused in (
        api.post("/v1/webhooks", json={"url": url}),
        api.patch(f"/v1/webhooks/{made['id']}", json={"url": url}),
    ):
        assert refused.status_code == 422, url
        assert refused.json()["errors"][0]["pointer"] == "/url"
    assert api.get(f"/v1/webhooks/{made['id']}").json()["url"] == URL


def test_unless_the_operator_says_so_only_https_to_the_internet(settings: Settings, make_key: MakeKey) -> None:
    changed = settings.model_copy(update={"webhook_http": False, "webhook_networks": ()})
    with running(changed) as url, client_of(url, make_key()) as api:
        for refused in ("http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://2130706433/"):
            response = api.post("/v1/webhooks", json={"url": refused})
            assert (response.status_code, response.json()["code"]) == (422, "receiver_refused"), refused
        assert make_webhook(api, URL)["url"] == URL


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("events", value) for value in ([], ["none"], "transition", [1])),
        *(("states", value) for value in ([], ["done"], ["job.failed"])),
        ("labels", {"a": 1}),
        ("description", "x" * 201),
        ("enabled", "yes"),
        ("secret", "mine"),
    ],
)
def test_other_fields_are_refused_by_name(api: httpx.Client, field: str, value: Any) -> None:
    made = make_webhook(api, URL)
    for refused in (
        api.post("/v1/webhooks", json={"url": URL, field: value}),
        api.patch(f"/v1/webhooks/{made['id']}", json={field: value}),
    ):
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].startswith(f"/{field}")


def test_a_project_has_a_bounded_number(api: httpx.Client) -> None:
    for _ in range(MOST):
        make_webhook(api, URL)
    refused = api.post("/v1/webhooks", json={"url": URL})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_webhooks")


def test_other_projects_and_lesser_keys_get_nowhere(
    api: httpx.Client, stranger: httpx.Client, service: str, make_key: MakeKey, receiver: Receiver, send: Send
) -> None:
    made = make_webhook(api, receiver.url)
    delivery = api.post(f"/v1/webhooks/{made['id']}/test").json()["id"]
    theirs = make_webhook(stranger, URL)
    url = f"/v1/webhooks/{made['id']}"
    places: list[tuple[str, str]] = [("GET", url), ("DELETE", url), ("PATCH", url), ("POST", f"{url}/rotate")]
    places += [("POST", f"{url}/test"), ("GET", f"{url}/deliveries"), ("GET", f"{url}/deliveries/{delivery}")]
    places += [("POST", f"{url}/deliveries/{delivery}/redeliver")]
    places += [("GET", f"/v1/webhooks/{theirs['id']}/deliveries/{delivery}")]
    places += [("POST", f"/v1/webhooks/{theirs['id']}/deliveries/{delivery}/redeliver")]
    for method, path in places:
        body = {"json": {}} if method == "PATCH" else {}
        refused = stranger.request(method, path, **body)
        assert refused.status_code == 404, path
        never = stranger.request(method, path.replace(made["id"], "whk_0").replace(delivery, "msg_0"), **body)
        assert {**refused.json(), "request_id": 0} == {**never.json(), "request_id": 0}
    assert [each["id"] for each in stranger.get("/v1/webhooks").json()["data"]] == [theirs["id"]]
    with client_of(service, make_key(scopes=[Scope.jobs_read])) as reader:
        assert reader.get(url).status_code == 200
        for method, path in [*places[1:5], places[7]]:
            body = {"json": {}} if method == "PATCH" else {}
            assert reader.request(method, path, **body).status_code == 403, path


def test_a_ping_and_its_log(api: httpx.Client, receiver: Receiver, send: Send) -> None:
    made = make_webhook(api, receiver.url, events=["published"])
    url = f"/v1/webhooks/{made['id']}"
    asked = api.post(f"{url}/test")
    delivery = asked.json()
    assert (asked.status_code, delivery["state"], delivery["last_attempt"]) == (202, "pending", None)
    assert send() == 1
    assert receiver.messages[0]["type"] == "webhook.ping"
    found = api.get(asked.headers["location"]).json()
    assert (found["state"], found["attempts"], found["next_attempt_at"]) == ("succeeded", 1, None)
    assert [(each["number"], each["status"], each["error"]) for each in found["tries"]] == [(1, 204, None)]
    assert found["body"] == receiver.got[0][1]
    listed = api.get(f"{url}/deliveries").json()["data"]
    assert [each["last_attempt"] for each in listed] == found["tries"]
    assert api.get(f"{url}/deliveries", params={"state": "failed"}).json()["data"] == []
    assert api.get(f"{url}/deliveries", params={"state": "lost"}).status_code == 422


def test_a_disabled_webhook_is_neither_tried_nor_sent_to(
    api: httpx.Client, receiver: Receiver, send: Send, session: Session
) -> None:
    made = make_webhook(api, receiver.url)
    url = f"/v1/webhooks/{made['id']}"
    waiting = api.post(f"{url}/test").json()["id"]
    assert api.patch(url, json={"enabled": False}).json()["disabled_reason"] is None
    assert send() == 0
    assert api.get(f"{url}/deliveries/{waiting}").json()["state"] == "skipped"
    for path in (f"{url}/test", f"{url}/deliveries/{waiting}/redeliver"):
        refused = api.post(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "webhook_disabled")
    api.patch(url, json={"enabled": True})
    assert api.post(f"{url}/deliveries/{waiting}/redeliver").status_code == 202
    assert send() == 1
    assert len(receiver.got) == 1


def test_deleting_a_webhook_drops_its_deliveries(api: httpx.Client, session: Session) -> None:
    made = make_webhook(api, URL)
    api.post(f"/v1/webhooks/{made['id']}/test")
    api.delete(f"/v1/webhooks/{made['id']}")
    assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 0
