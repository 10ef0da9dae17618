"""What can be caused at any rate is logged at a bounded one."""

import logging
from typing import Any

import pytest

from app.kit.logs import MOST_KINDS, SHOWN, Throttle


def record(said: Any, level: int = logging.WARNING, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("somebody", level, __file__, 1, said, (), info)


REFUSED = {"event": "request", "status": 401}


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("Invalid HTTP request received.", logging.WARNING),
        ({"event": "database_error"}, logging.ERROR),
        (REFUSED, logging.INFO),
        ({"event": "request_refused"}, logging.INFO),
        ({"event": "client_gone"}, logging.INFO),
    ],
)
def test_a_complaint_is_shown_so_many_times_and_then_counted(said: Any, level: int) -> None:
    throttle = Throttle(seconds=3600)
    made = [record(dict(said) if isinstance(said, dict) else said, level) for _ in range(SHOWN + 5)]
    assert [throttle.filter(each) for each in made] == [True] * SHOWN + [False] * 5
    throttle._seconds = -1
    last = record(dict(said) if isinstance(said, dict) else said, level)
    assert throttle.filter(last)
    assert "5" in str(last.msg)


@pytest.mark.parametrize("said", [{"event": "request", "status": 200}, {**REFUSED, "project": "prj_1"}])
def test_what_a_key_holder_does_is_all_there(said: dict[str, Any]) -> None:
    throttle = Throttle(seconds=3600)
    assert all(throttle.filter(record(dict(said), logging.INFO)) for _ in range(3 * SHOWN))


def test_one_complaint_does_not_hide_another() -> None:
    throttle = Throttle(seconds=3600)
    for _ in range(2 * SHOWN):
        throttle.filter(record({"event": "store_error"}))
    assert throttle.filter(record({"event": "database_error"}))
    assert throttle.filter(record({"event": "store_error"}, error=OSError()))


def test_the_kinds_that_are_remembered_are_bounded() -> None:
    throttle = Throttle(seconds=3600)
    for number in range(3 * MOST_KINDS):
        throttle.filter(record(f"{number}"))
    assert len(throttle._seen) <= MOST_KINDS
