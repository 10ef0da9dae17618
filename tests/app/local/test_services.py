"""What the children of a local stack are told."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.local.services import METRICS, Services, service_environment
from app.local.state import StateFolder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    state = StateFolder(tmp_path)
    state.lock()
    yield state
    state.unlock()


def test_api_and_dispatcher_show_their_metrics_at_ports_of_their_own(state: StateFolder) -> None:
    services = Services(state, {METRICS: "127.0.0.1:9464"})
    shown = [child.environment[METRICS] for child in (services.api("127.0.0.1", 1), services.dispatcher())]
    assert shown == ["127.0.0.1:9464", "127.0.0.1:9465"]


@pytest.mark.parametrize("given", ["127.0.0.1:0", "127.0.0.1:65535", "nonsense"])
def test_what_has_no_next_port_is_left_to_the_settings(given: str, state: StateFolder) -> None:
    assert Services(state, {METRICS: given}).dispatcher().environment == {METRICS: given}
    assert METRICS not in Services(state, {}).dispatcher().environment


def test_logs_are_text_unless_json_is_asked_for(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = SimpleNamespace(url="url")
    monkeypatch.delenv("SECATEUR_LOG_FORMAT", raising=False)
    form = "SECATEUR_LOG_FORMAT"
    assert service_environment(state, state.remember(), server, server, [], {})[form] == "text"
    monkeypatch.setenv(form, "json")
    assert service_environment(state, state.remember(), server, server, [], {})[form] == "json"
