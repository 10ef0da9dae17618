import json
from typing import Any

from tests.secateur.conftest import Reply, Run, ScriptedServer

WEBHOOK: dict[str, Any] = {
    "id": "whk_1",
    "url": "https://hooks.example.com/",
    "description": "the board",
    "events": ["transition"],
    "states": None,
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
}
DELIVERY: dict[str, Any] = {
    "id": "msg_1",
    "type": "job.transition",
    "job": "job_1",
    "state": "failed",
    "attempts": 16,
    "created_at": "2026-01-01T00:00:00Z",
    "last_attempt": {"status": None, "error": "timeout"},
}


def page(*rows: Any) -> Reply:
    return Reply.json({"data": list(rows), "next_cursor": None})


def test_a_webhook_is_made_with_its_filters(scripted: ScriptedServer, run: Run) -> None:
    scripted.script = [Reply.json({**WEBHOOK, "secret": "whsec_x"}, 201)]
    arguments = ("--event", "transition", "--state", "failed", "--label", "team=a=b")
    code, out, _ = run("webhooks", "add", WEBHOOK["url"], *arguments)
    assert (code, out) == (0, "whk_1 whsec_x\n")
    sent = json.loads(scripted.requests[0].body)
    assert sent == {
        "url": WEBHOOK["url"],
        "events": ["transition"],
        "states": ["failed"],
        "labels": {"team": "a=b"},
        "description": "",
    }
    assert run("webhooks", "add", WEBHOOK["url"], "--label", "team")[0] == 2


def test_webhooks_and_deliveries_are_listed(scripted: ScriptedServer, run: Run) -> None:
    failing = {**WEBHOOK, "id": "whk_2", "failing_since": "2026-01-01T00:00:00Z"}
    gone = {**WEBHOOK, "id": "whk_3", "enabled": False, "disabled_reason": "410"}
    scripted.script = [page(WEBHOOK, failing, gone), page(DELIVERY)]
    _, out, _ = run("webhooks", "ls")
    for text in ("whk_1", "fails since", "disabled: 410", "transition", "all"):
        assert text in out
    _, out, _ = run("webhooks", "deliveries", "whk_1", "--state", "failed")
    for text in ("msg_1", "failed", "16", "timeout", "job_1"):
        assert text in out
    assert "state=failed" in scripted.requests[1].path


def test_the_other_commands_call_what_they_say(scripted: ScriptedServer, run: Run) -> None:
    scripted.answer = lambda request: (
        Reply(204, b"")
        if request.method == "DELETE"
        else Reply.json({**WEBHOOK, "secret": "whsec_y", "state": "pending"})
    )
    assert run("webhooks", "rotate", "whk_1", "--keep-hours", "0")[1] == "whsec_y\n"
    run("webhooks", "test", "whk_1")
    run("webhooks", "enable", "whk_1")
    run("webhooks", "redeliver", "whk_1", "msg_1")
    run("webhooks", "rm", "whk_1")
    assert [(each.method, each.path) for each in scripted.requests] == [
        ("POST", "/v1/webhooks/whk_1/rotate?keep_hours=0.0"),
        ("POST", "/v1/webhooks/whk_1/test"),
        ("PATCH", "/v1/webhooks/whk_1"),
        ("POST", "/v1/webhooks/whk_1/deliveries/msg_1/redeliver"),
        ("DELETE", "/v1/webhooks/whk_1"),
    ]
