"""Windows in the broker's server, when it answers and when it does not."""

import asyncio
import socket
import time
from contextlib import closing
from typing import Any

import pytest

from app.rates import shared
from app.rates.policies import CallClass, RatePolicy
from app.rates.shared import SharedWindows

POLICY = RatePolicy(CallClass.writes, 3, shared=True)


def test_a_silent_server_is_asked_once_and_then_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred calls cost one time-out, not a hundred; one line is logged."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        windows = SharedWindows(f"redis://127.0.0.1:{server.getsockname()[1]}/0")

        async def ask() -> list[Any]:
            found = [await windows.take("a", POLICY) for _ in range(100)]
            await windows.close()
            return found

        assert asyncio.run(ask()) == [None] * 100
        server.settimeout(0)
        server.accept()[0].close()
        try:
            server.accept()[0].close()
        except BlockingIOError:
            again = False
        else:
            again = True
    assert not again, "it was connected to once"
    logged = [each for each in caplog.records if each.name == "app.rates"]
    assert len(logged) == 1
    assert "rates_not_shared" in str(logged[0].msg)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there is waited for, however busy the machine is."""
    monkeypatch.setattr(shared, "ANSWER_SECONDS", 30.0)


def test_what_is_left_is_counted_down_and_refused(patient: None, broker_url: str) -> None:
    async def ask() -> list[Any]:
        windows = SharedWindows(broker_url)
        try:
            return [await windows.take("a", POLICY) for _ in range(4)]
        finally:
            await windows.close()

    found = asyncio.run(ask())
    assert [(each.allowed, each.remaining) for each in found] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert all(1 <= each.reset <= 120 for each in found)


def test_a_server_that_is_back_is_asked_again(patient: None, broker_url: str, monkeypatch: Any) -> None:
    async def ask() -> list[Any]:
        windows = SharedWindows(broker_url)
        windows._note_away("TimeoutError")
        try:
            first = await windows.take("a", POLICY)
            windows._away_until = time.monotonic()
            return [first, await windows.take("a", POLICY), await windows.take("a", POLICY)]
        finally:
            await windows.close()

    first, *others = asyncio.run(ask())
    assert first is None
    assert [each.remaining for each in others] == [2, 1]
