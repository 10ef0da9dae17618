import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Integer, String, column, select, values
from sqlalchemy.orm import Session

from app.kit.pagination import Listing, PageRequest, decode_cursor, encode_cursor
from app.kit.problems import Invalid

MOMENTS = st.datetimes(timezones=st.just(UTC))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def spelt(key: object) -> str:
    """A cursor of the list `it` with that key."""
    values = ["it", *key] if isinstance(key, list) else key
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


@given(MOMENTS, TEXTS, st.integers(-(2**31) + 1, 2**31 - 1))
def test_a_cursor_comes_back(moment: datetime, text: str, number: int) -> None:
    assert decode_cursor("it", encode_cursor("it", moment, text, number), datetime, str, int) == [
        moment,
        text,
        number,
    ]


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_noise_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        decode_cursor("it", text, datetime, str)


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["2026-01-01T00:00:00", "a"],
        ["2026-01-01T00:00:00Z", 1],
        ["2026-01-01T00:00:00Z", "\0"],
        ["0001-01-01T00:00:00+01:00", "a"],
        ["9999-12-31T23:59:59-01:00", "a"],
        [None, "a"],
        {},
    ],
)
def test_forged_cursors_are_refused(values: object) -> None:
    with pytest.raises(Invalid):
        decode_cursor("it", spelt(values), datetime, str)


def test_an_offset_that_postgresql_does_not_know_is_translated() -> None:
    values = ["2026-01-02T00:00:00+23:59:59.5", "a"]
    decoded = decode_cursor("it", spelt(values), datetime, str)
    assert decoded is not None
    assert decoded == [datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC), "a"]
    assert decoded[0].tzinfo is UTC


@pytest.mark.parametrize("value", [True, 2**31, 1.5, "1"])
def test_numbers_stay_numbers(value: object) -> None:
    with pytest.raises(Invalid):
        decode_cursor("it", spelt([value]), int)


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_are_the_whole_list_in_order(session: Session, newest_first: bool) -> None:
    rows = [(1, "b", "p"), (1, "a", "q"), (2, "a", "r"), (0, "z", "s"), (1, "c", "t")]
    table = values(column("n", Integer), column("name", String), column("what", String), name="t").data(rows)
    listing = Listing(select(table.c.what), (table.c.n, table.c.name), newest_first)
    expected = [what for *_, what in sorted(rows, reverse=newest_first)]
    for limit in range(1, len(rows) + 2):
        found: list[str] = []
        cursor = None
        while cursor is not None or not found:
            page = PageRequest(limit, cursor).page(session, listing, str)
            assert len(page.data) == min(limit, len(rows) - len(found))
            found += page.data
            cursor = page.next_cursor
        assert found == expected
    with pytest.raises(Invalid):
        PageRequest(1, encode_cursor("", "a", 1)).rows(session, listing)


def test_a_cursor_of_another_list_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="another list or of other filters"):
        decode_cursor("it", encode_cursor("other", "a"), str)
