import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.text import MAX_LINE_BYTES, TextRefused, TextScanner

CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


def scan(data: bytes, format: str = "txt", field: str | None = None, step: int = 0) -> TextScanner:
    scanner = TextScanner(format, field)
    for start in range(0, len(data), step or len(data) or 1):
        scanner.feed(data[start : start + (step or len(data))])
    scanner.finish()
    return scanner


def refusal(data: bytes, format: str = "txt", step: int = 0) -> TextRefused:
    with pytest.raises(TextRefused) as caught:
        scan(data, format, step=step)
    return caught.value


@given(CLEAN, st.integers(1, 7))
def test_the_pieces_do_not_matter(text: str, step: int) -> None:
    data = text.encode()
    if not text.strip():
        refusal(data, step=step)
        return
    found = scan(data, step=step)
    assert (found.bytes, found.characters, found.documents) == (len(data), len(text), 1)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@given(st.lists(CLEAN, min_size=1), st.integers(1, 50), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_jsonl_counts_documents_and_their_text(texts: list[str], step: int, last: bool, newline: str) -> None:
    data = newline.join(json.dumps({"text": text, "n": 1}) for text in texts) + (newline if last else "")
    if not any(text.strip() for text in texts):
        refusal(data.encode(), "jsonl", step)
        return
    found = scan(data.encode(), "jsonl", step=step)
    assert (found.documents, found.characters) == (len(texts), sum(map(len, texts)))


@given(st.binary(), st.integers(1, 5), st.sampled_from(["txt", "jsonl"]))
def test_any_bytes_are_taken_or_refused(data: bytes, step: int, format: str) -> None:
    try:
        found = scan(data, format, step=step)
    except TextRefused:
        return
    assert found.characters > 0


@pytest.mark.parametrize(
    ("data", "format", "line", "word"),
    [
        (b"a\nb\xff", "txt", 2, "UTF-8"),
        ("a\nb".encode("utf-16-le"), "txt", 1, "NUL"),
        (b"a\nb\nc\xc3", "txt", 3, "UTF-8"),
        (b"a\n\0", "txt", 2, "NUL"),
        (b"\xef\xbb\xbfa", "txt", 1, "byte order mark"),
        (b'\xef\xbb\xbf{"text": "a"}', "jsonl", 1, "byte order mark"),
        (b'{"text": "a"}\n\n{"txt": "a"}', "jsonl", 3, "text_field"),
        (b'{"text": "a"}\n{', "jsonl", 2, "not JSON"),
        (b'{"text": "\\u0000"}', "jsonl", 1, "NUL"),
        (b"", "txt", None, "no text"),
        (b" \n\t", "txt", None, "no text"),
        (b'{"text": " "}', "jsonl", None, "no text"),
        (b"\n\n", "jsonl", None, "no text"),
    ],
)
def test_a_refusal_names_the_line_and_the_fix(data: bytes, format: str, line: int | None, word: str) -> None:
    for step in (0, 1, 3) if len(data) < 1000 else (0,):
        error = refusal(data, format, step)
        assert error.line == line
        assert word in str(error)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    scanner = TextScanner("jsonl")
    piece = b"x" * 2**20
    for _ in range(MAX_LINE_BYTES // len(piece)):
        scanner.feed(piece)
    with pytest.raises(TextRefused) as caught:
        scanner.feed(b"x")
    assert caught.value.line == 1
