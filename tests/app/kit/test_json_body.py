import json
import time
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.json_body import MAX_DEPTH, MAX_KEY, MAX_MEMBERS, MAX_NODES, MAX_STRING, is_json, parse_json
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


def test_places_of_what_is_not_refused_cost_nothing() -> None:
    inner = b'{"b":0},' * 5_000 + b"0"
    with_long_key = b'{"' + b"k" * MAX_KEY + b'":[' + inner + b"]}"
    assert peak_bytes(with_long_key) - peak_bytes(b'{"k":[' + inner + b"]}") < 4 * 20_000


def peak_bytes(text: bytes) -> int:
    """The most memory that reading takes."""
    tracemalloc.start()
    try:
        parse_json(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_key_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(b'{"a/b":{"' + b"k" * MAX_KEY + b'":[1e999]}}')
    assert caught.value.errors[0].pointer == f"/a~1b/{'k' * 200}…/0"
    assert len(str(caught.value.detail)) < 300


def members(count: int, key: str = "k") -> bytes:
    return json.dumps({f"{key}{number}": 0 for number in range(count)}).encode()


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (members(MAX_MEMBERS), members(MAX_MEMBERS + 1), "members"),
        (b"[" + b"{}," * 9_000 + b"0]", b"[" + b"{}," * (MAX_NODES // 2) + b"0]", "values"),
        (b'["' + b"," * MAX_STRING + b'"]', b"[" + b"0," * MAX_NODES + b"0]", "values"),
        (b'["' + b"a" * MAX_STRING + b'"]', b'["' + b"a" * (MAX_STRING + 1) + b'"]', "characters"),
        (b'{"' + b"a" * MAX_KEY + b'":0}', b'{"' + b"a" * (MAX_KEY + 1) + b'":0}', "characters"),
    ],
    ids=["members", "objects", "commas in a text", "text", "key"],
)
def test_how_much_there_is_is_bounded(good: bytes, bad: bytes, words: str) -> None:
    parse_json(good)
    with pytest.raises(Invalid, match=words):
        parse_json(bad)


def test_a_long_number_is_refused_in_our_words() -> None:
    for sign in ("9" * 500, "1." + "9" * 500):
        with pytest.raises(Malformed, match="more than 400 digits"):
            parse_json(sign.encode())


def test_quotes_and_backslashes_are_counted_in_one_pass() -> None:
    """Twice the signs take about twice the time, however the strings end."""

    def seconds(count: int) -> float:
        text = b'["' + b'\\"' * count + b"," * MAX_NODES
        taken = []
        for _ in range(5):
            started = time.process_time()
            with suppress(Malformed, Invalid):
                parse_json(text)
            taken.append(time.process_time() - started)
        return min(taken)

    assert seconds(160_000) < 12 * seconds(40_000) + 0.01


def test_json_types_are_known() -> None:
    assert is_json("application/json; charset=utf-8")
    assert is_json("application/merge-patch+json")
    assert not is_json("text/json")
    assert not is_json(None)
