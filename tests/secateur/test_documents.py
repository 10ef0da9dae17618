import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.documents import read_document


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(), st.booleans())
def test_a_document_is_the_string_under_its_field(text: str, field: str, escaped: bool) -> None:
    line = json.dumps({"before": 1, field: text}, ensure_ascii=escaped).encode(errors="replace")
    assert read_document(line, field.encode(errors="replace").decode() if not escaped else field) == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON; write"),
        (b"[" * 100_000, "is not JSON; write"),
        (b'\xef\xbb\xbf{"text": "a"}', "is not JSON; write"),
        (b'{"text": "\xff"}', "is not UTF-8; convert"),
        (b"[]", "is not a JSON object; write"),
        (
            b'{"question": "a", "n": 1, "answer": "b", "`": "c"}',
            "`text`, but under `question`, `answer`; name the",
        ),
        (b'{"a b": "a"}', "has no string under `text`; name the field"),
        (b'{"text": 1}', "has no string under `text`; name the field"),
        (b'{"text": null}', "has no string under `text`; name the field"),
        (b'{"text": "a \\ud83d b"}', "has half of a pair of surrogates"),
        (b'{"text": "\\udc00"}', "has half of a pair of surrogates"),
    ],
)
def test_a_line_that_is_no_document_is_refused_with_the_fix(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_document(line, "text")
