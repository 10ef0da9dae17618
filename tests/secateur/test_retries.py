"""How long a server asks to be left alone."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from secateur.retries import LONGEST_REQUESTED, requested_pause


def asked(text: str) -> float | None:
    return requested_pause(httpx.Response(503, headers={"Retry-After": text}))


@pytest.mark.parametrize(("text", "pause"), [("7", 7), ("-1", 0), ("inf", LONGEST_REQUESTED)])
def test_seconds_are_taken_within_limits(text: str, pause: float) -> None:
    assert asked(text) == pause


def test_a_date_is_taken_from_now() -> None:
    now = datetime.now(UTC)
    assert asked(format_datetime(now + timedelta(hours=1), usegmt=True)) == LONGEST_REQUESTED
    assert asked(format_datetime(now - timedelta(hours=1), usegmt=True)) == 0


@pytest.mark.parametrize(
    "text",
    ["", "soon", "nan", "Wed, 21 Oct 99999999999 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -0000"],
)
def test_what_says_no_time_is_no_pause(text: str) -> None:
    assert asked(text) is None
