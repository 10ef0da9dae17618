import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.json_body import MAX_DEPTH, is_json, parse_json
from app.kit.problems import Invalid, Malformed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_accepted_is_what_was_sent(value: object) -> None:
    sent = json.dumps(value)
    try:
        assert parse_json(sent.encode()) == value
    except Invalid:
        assert "\\u0000" in sent


@given(st.binary())
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(Malformed, Invalid):
        json.dumps(parse_json(data), allow_nan=False).encode()


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", '{"a": Infinity}', '{"a": 1, "a": 2}', "\ufeff{}", "9" * 5000, "[" * 100_000 + "]" * 100_000],
)
def test_what_is_not_json_is_malformed(text: str) -> None:
    with pytest.raises((Malformed, Invalid)):
        parse_json(text.encode())


def test_what_postgres_cannot_hold_is_refused_with_its_place() -> None:
    for text in (r'{"a": ["b", "\u0000"]}', r'{"a": ["b", "\ud800"]}', '{"a": ["b", 1e999]}'):
        with pytest.raises(Invalid) as caught:
            parse_json(text.encode())
        assert caught.value.errors[0].pointer == "/a/1"
    with pytest.raises(Invalid):
        parse_json(rb'{"\u0000": 1}')


def test_depth_is_bounded() -> None:
    parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(Invalid):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_json_types_are_known() -> None:
    assert is_json("application/json; charset=utf-8")
    assert is_json("application/merge-patch+json")
    assert not is_json("text/json")
    assert not is_json(None)
